import csv
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

CLUSTR = pathlib.Path(sys.executable).with_name("clustr")


def clustr(*arguments, cwd):
    done = subprocess.run(
        [CLUSTR, *map(str, arguments)], check=False, capture_output=True, text=True, timeout=600, cwd=cwd
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which `clustr train` and `clustr export` have been run."""
    folder = tmp_path_factory.mktemp("cli")
    code, out, err = clustr("train", "--epochs", 3, "--output", "model.keras", cwd=folder)
    assert (code, err) == (0, "")
    assert "certified accuracy" in out
    code, out, err = clustr("export", "--model", "model.keras", "--output", "serving", cwd=folder)
    assert (code, err) == (0, "")
    return folder


def test_certify_writes_a_row_for_each_image(trained, digits):
    import keras

    code, out, err = clustr(
        "certify", "--model", "model.keras", "--examples", 20, "--output", "out/rows.csv", cwd=trained
    )
    assert (code, err) == (0, "")
    assert "20 images: clean accuracy" in " ".join(out.split())
    rows = list(csv.DictReader((trained / "out" / "rows.csv").open()))
    _, (images, labels) = digits
    certificate = keras.models.load_model(trained / "model.keras").certify(images[:20])
    assert [int(row["class_ids"]) for row in rows] == certificate.class_ids.tolist()
    assert [int(row["label"]) for row in rows] == labels[:20].tolist()
    radii = [float(row["certified_radius"]) for row in rows]
    np.testing.assert_allclose(radii, certificate.certified_radius, atol=1e-5)


def test_serve_and_query_over_both_protocols(trained):
    command = [CLUSTR, "serve", "serving", "--grpc-port", "0", "--rest-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=trained) as server:
        try:
            grpc = re.fullmatch(r"gRPC +(\S+)\n", server.stdout.readline())[1]
            rest = re.fullmatch(r"REST +(http://[^/]+)/v1/models/clustr\n", server.stdout.readline())[1]
            answers = [clustr("query", "--target", target, "--examples", 3, cwd=trained) for target in (grpc, rest)]
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    assert answers[0] == answers[1]
    assert answers[0][0] == 0
    assert "certified radius" in answers[0][1]


def test_errors_are_one_line_and_exit_status_2(trained):
    (trained / "other.keras").write_text("not a model")
    for arguments, message in (
        (("train", "--recipe", "magic"), "--recipe must be certified; got magic"),
        (("train", "--data", "imagenet"), "--data must be digits; got imagenet"),
        (("train", "--output", "model.h5"), r"must be a \.keras file"),
        (("serve", "nowhere"), "nowhere"),
        (("certify", "--model", "other.keras"), "other.keras"),
        (("query", "--target", "http://127.0.0.1:1"), "UNAVAILABLE"),
    ):
        code, out, err = clustr(*arguments, cwd=trained)
        assert code == 2, (arguments, out, err)
        assert re.search(message, err), err
        assert len(err.strip().splitlines()) == 1, err


def test_help_names_every_command():
    code, out, _ = clustr("--help", cwd=os.getcwd())
    assert code == 0
    for command in ("demo", "train", "certify", "export", "serve", "query"):
        assert f" {command} " in out
