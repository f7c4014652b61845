"""`clustr serve`, and those who ask it: `clustr query`, `clustr load-test`."""

import json
import os
import re
import signal
import subprocess

import keras
import numpy as np
import pytest
from support.command_line import CLUSTR, clustr
from support.png import as_bytes, png

from clustr_keras.commands.load_test import load_test
from clustr_keras.commands.query import query


def test_serve_query_and_load_over_both_protocols(trained, clustr_here, answer, digits):
    command = [CLUSTR, "serve", "serving", "--grpc-port", "0", "--rest-port", "0", "--label", "stable=1", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=trained) as server:
        try:
            ready = json.loads(server.stdout.readline())
            grpc, rest = ready["grpc_target"], ready["rest_url"]
            targets = (("--target", grpc), ("--target", rest), ("--target", rest, "--label", "stable"))
            answers = [clustr("query", *targets[0], "--examples", 3, cwd=trained)]
            answers += [clustr_here("query", *target, "--examples", 3, cwd=trained) for target in targets[1:]]
            asked, _ = answer("query", *targets[2], "--examples", 20, "--seed", 6)
            (trained / "digit.png").write_bytes(png(digits[1][0][0]))
            (trained / "broken.png").write_bytes(b"no PNG")
            files, _ = answer("query", "digit.png", "broken.png", *targets[0], "--version", 1)
            shown = clustr_here("query", "digit.png", "broken.png", *targets[1], cwd=trained)
            loads = [answer("load-test", *target, "--requests", 20, "--output", "load.json") for target in targets[:2]]
            code, out, err = clustr_here("load-test", "--target", grpc, "--requests", 5, cwd=trained)
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        assert server.stdout.read() == ""  # nothing but that line
    assert ready["names"] == ["clustr"]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][0] == 0
    assert "certified radius" in answers[0][1]
    assert (code, err) == (0, "")
    assert "images/s" in out
    for figures, status in loads:
        assert status == 0
        assert (figures["name"], figures["requests"], figures["errors"]) == ("clustr", 20, {})
        assert all(name in load_test.__doc__ for name in figures)
    assert json.loads((trained / "load.json").read_text()) == loads[-1][0]

    drawn = np.sort(np.random.default_rng(6).permutation(360)[:20])
    images, labels = digits[1]
    certificate = keras.models.load_model(trained / "model.keras").certify(images[drawn])
    assert [row["image"] for row in asked["images"]] == drawn.tolist()
    assert [row["true_class"] for row in asked["images"]] == [str(label) for label in labels[drawn]]
    assert [row["class_id"] for row in asked["images"]] == certificate.class_ids.tolist()
    radii = [row["certified_radius"] for row in asked["images"]]
    np.testing.assert_allclose(radii, certificate.certified_radius, atol=1e-5)
    assert all(name in query.__doc__ for name in {**asked, **asked["images"][0]})

    assert (files["data"], files["seed"], files["version"]) == (None, None, 1)
    assert [row["image"] for row in files["images"]] == ["digit.png", "broken.png"]
    assert [row["is_valid"] for row in files["images"]] == [True, False]
    first = keras.models.load_model(trained / "model.keras").certify(as_bytes(digits[1][0][:1]) / np.float32(255))
    assert files["images"][0]["class_id"] == first.class_ids[0]
    assert files["images"][0]["certified_radius"] == pytest.approx(first.certified_radius[0], abs=1e-5)
    assert shown[0] == 0
    assert re.search(r"digit.png .* [\d.]+ +", shown[1])
    assert re.search(r"broken.png .* invalid ", shown[1])


@pytest.mark.parametrize("as_json", [False, True])
def test_serve_runs_modelserver_only_if_all_interfaces_are_allowed(
    trained, tmp_path, monkeypatch, clustr_here, as_json
):
    binary = tmp_path / "tensorflow_model_server"
    binary.write_text('#!/bin/sh\necho "$0" "$@" > started\n')
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    command = ["serve", trained / "serving", "--engine", "tensorflow_model_server", "--grpc-port", 0]
    command += ["--rest-port", 18501, *(["--json"] if as_json else [])]
    code, out, err = clustr_here(*command, cwd=tmp_path)
    assert (code, out) == (2, "")
    assert "--host 0.0.0.0" in err
    code, out, err = clustr_here(*command, "--host", "0.0.0.0", cwd=tmp_path)
    assert (code, err) == (0, "")
    binary, *flags = (tmp_path / "started").read_text().split()
    assert "--rest_api_port=18501" in flags
    port = next(flag.removeprefix("--port=") for flag in flags if flag.startswith("--port="))
    assert int(port) > 0
    target, url = f"127.0.0.1:{port}", "http://127.0.0.1:18501"
    if as_json:
        assert json.loads(out) == {"names": ["clustr"], "grpc_target": target, "rest_url": url}
    else:
        assert out == f"gRPC  {target}\nREST  {url}/v1/models/clustr\n"


def test_serve_takes_a_folder_or_a_file_of_models(trained, clustr_here):
    for arguments, words in (
        ((), "either the folder of one model or a model_config_file"),
        (("serving", "--model-config-file", "models.config"), "either the folder of one model or a model_config_file"),
        (("--model-config-file", "models.config", "--name", "m"), "got --name m beside it"),
        (("--model-config-file", "models.config", "--label", "a=1"), "labels are given in it"),
        (("--model-config-file", "nowhere.config"), "nowhere.config"),
    ):
        code, out, err = clustr_here("serve", *arguments, cwd=trained)
        assert (code, out) == (2, "")
        assert words in err
