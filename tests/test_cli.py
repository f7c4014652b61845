import csv
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from clustr_keras import cli

CLUSTR = pathlib.Path(sys.executable).with_name("clustr")


def clustr(*arguments, cwd):
    done = subprocess.run(
        [CLUSTR, *map(str, arguments)], check=False, capture_output=True, text=True, timeout=600, cwd=cwd
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def clustr_here(monkeypatch, capfd):
    """As `clustr`, but in this process, for what does not depend on a fresh one: that takes seconds to start."""

    def run(*arguments, cwd):
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["clustr", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capfd.readouterr()

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which `clustr train` and `clustr export` have been run."""
    folder = tmp_path_factory.mktemp("cli")
    # With one device, all devices are just that.
    code, out, err = clustr("train", "--epochs", 3, "--devices", "all", "--output", "model.keras", cwd=folder)
    assert (code, err) == (0, "")
    assert "certified accuracy" in out
    arguments = ("--model", "model.keras", "--output", "serving", "--data", "digits", "--verify")
    code, out, err = clustr("export", *arguments, cwd=folder)
    assert (code, err) == (0, "")
    assert "answers as the live model does on 256 images" in " ".join(out.split())
    return folder


def test_certify_writes_a_row_for_each_image(trained, digits, clustr_here):
    import keras

    code, out, err = clustr_here(
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


def test_the_papers_recipe_resumes_where_its_checkpoint_ends(trained, clustr_here):
    def train(epochs):
        arguments = ("--checkpoint", "checkpoint", "--csv-log", "logs/clustr.csv", "--output", "clustr.keras")
        return clustr_here("train", "--recipe", "clustr", "--fast", "--epochs", epochs, *arguments, cwd=trained)

    for epochs in (2, 3):
        code, out, err = train(epochs)
        assert (code, err) == (0, "")
        assert "clean accuracy" in out
        rows = list(csv.DictReader((trained / "logs" / "clustr.csv").open()))
        assert [int(row["epoch"]) for row in rows] == list(range(epochs))
    assert (trained / "checkpoint" / "checkpoint.npz").exists()


def test_the_model_card_has_the_accuracies(trained, digits):
    import keras

    card = json.loads((trained / "serving" / "1" / "assets.extra" / "model_card.json").read_text())
    _, (images, labels) = digits
    certificate = keras.models.load_model(trained / "model.keras").certify(images)
    assert (card["data_set"], card["test_images"]) == ("digits", len(images))
    assert card["clean_accuracy"] == pytest.approx(np.mean(certificate.class_ids == labels), abs=1e-9)
    assert card["certified_accuracy"]["0.3"] == certificate.accuracy_at(0.3, labels)


def test_serve_query_and_load_over_both_protocols(trained, clustr_here):
    command = [CLUSTR, "serve", "serving", "--grpc-port", "0", "--rest-port", "0", "--label", "stable=1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=trained) as server:
        try:
            grpc = re.fullmatch(r"gRPC +(\S+)\n", server.stdout.readline())[1]
            rest = re.fullmatch(r"REST +(http://[^/]+)/v1/models/clustr\n", server.stdout.readline())[1]
            targets = (("--target", grpc), ("--target", rest), ("--target", rest, "--label", "stable"))
            answers = [clustr("query", *targets[0], "--examples", 3, cwd=trained)]
            answers += [clustr_here("query", *target, "--examples", 3, cwd=trained) for target in targets[1:]]
            loads = [
                clustr_here("load-test", *target, "--requests", 20, "--output", "load.json", cwd=trained)
                for target in targets[:2]
            ]
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][0] == 0
    assert "certified radius" in answers[0][1]
    for code, out, err in loads:
        assert (code, err) == (0, "")
        assert "images/s" in out
    figures = json.loads((trained / "load.json").read_text())
    assert (figures["requests"], figures["errors"]) == (20, {})


def test_serve_runs_modelserver_only_if_all_interfaces_are_allowed(trained, tmp_path, monkeypatch, clustr_here):
    binary = tmp_path / "tensorflow_model_server"
    binary.write_text('#!/bin/sh\necho "$0" "$@"\n')
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    command = ("serve", "serving", "--engine", "tensorflow_model_server", "--grpc-port", 0, "--rest-port", 18501)
    code, out, err = clustr_here(*command, cwd=trained)
    assert (code, out) == (2, "")
    assert "--host 0.0.0.0" in err
    code, out, err = clustr_here(*command, "--host", "0.0.0.0", cwd=trained)
    assert (code, err) == (0, "")
    assert str(binary) in out
    assert "--rest_api_port=18501" in out
    assert re.search(r"--port=[1-9]\d+ ", out)


def test_a_model_without_a_bound_is_exported_only_if_asked(tmp_path, clustr_here):
    import keras

    from clustr_keras import ClustrClassifier

    backbone = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.LayerNormalization()])
    ClustrClassifier(backbone, 10).save(tmp_path / "plain.keras")
    code, _, err = clustr_here("export", "--model", "plain.keras", "--output", "plain", cwd=tmp_path)
    assert code == 2
    assert "layer_normalization" in err
    assert not (tmp_path / "plain" / "1").exists()
    arguments = ("--without-certificate", "--data", "digits", "--verify")
    code, _, err = clustr_here("export", "--model", "plain.keras", "--output", "plain", *arguments, cwd=tmp_path)
    assert (code, err) == (0, "")
    card = json.loads((tmp_path / "plain" / "1" / "assets.extra" / "model_card.json").read_text())
    assert card["certificate"] is None
    assert "certified_accuracy" not in card


def test_audit_finds_no_violation_and_says_how_far_the_attacks_reach(trained, clustr_here):
    arguments = ("audit", "--model", "model.keras", "--examples", 24, "--reach", "--output", "audited", "--seed", 3)
    code, out, err = clustr_here(*arguments, cwd=trained)
    assert (code, err) == (0, "")
    assert "0 of 24 examples" in out
    assert [path.name for path in (trained / "audited").iterdir()] == ["results.json"]
    results = json.loads((trained / "audited" / "results.json").read_text())
    assert (results["examples"], results["violations"], results["records"], results["seed"]) == (24, 0, [], 3)
    assert [attack.split()[0] for attack in results["attacks"]] == ["PGD", "bisector", "Carlini-Wagner", "smallest"]
    assert results["reach"]["flips_found"] == 24
    assert results["reach"]["ratio_below_1"] == 0
    assert 1.0 <= results["reach"]["ratio_quantiles"]["0.5"] < 2.0


def test_audit_of_false_certificates_saves_counterexamples_and_exits_with_1(trained, monkeypatch, clustr_here):
    from clustr_keras.classifier import ClustrClassifier

    certify = ClustrClassifier.certify

    def claim_too_much(self, *args, **kwargs):
        certificate = certify(self, *args, **kwargs)
        return dataclasses.replace(certificate, certified_radius=6 * certificate.certified_radius)

    monkeypatch.setattr(ClustrClassifier, "certify", claim_too_much)
    (trained / "refuted").mkdir()
    (trained / "refuted" / "counterexample-99.npz").write_text("of an earlier audit")
    arguments = ("audit", "--model", "model.keras", "--examples", 4, "--output", "refuted")
    code, out, _ = clustr_here(*arguments, cwd=trained)
    assert code == 1
    out = " ".join(out.split())
    results = json.loads((trained / "refuted" / "results.json").read_text())
    saved = sorted((trained / "refuted").glob("*.npz"))
    assert len(saved) == results["violations"] == len(results["records"]) > 0
    for record in results["records"]:
        path = trained / "refuted" / f"counterexample-{record['index']}.npz"
        assert f"refuted/{path.name}" in out
        with np.load(path) as counterexample:
            gap = counterexample["adversarial"].astype("float64") - counterexample["image"].astype("float64")
            assert np.linalg.norm(gap) == pytest.approx(record["distance"], rel=1e-12)
            assert record["distance"] < record["certified_radius"] == counterexample["certified_radius"]


QUICK = ("--examples", 40, "--subset", 20, "--attack", "pgd-20", "--threat-model", "l_inf:0.1", "--seed", 1)


def test_evaluate_writes_its_figures_and_says_what_passed(trained, clustr_here):
    arguments = ("evaluate", "--model", "model.keras", "--threat-model", "l_2:0.3", "--output", "evaluated", *QUICK)
    code, out, err = clustr_here(*arguments, cwd=trained)
    assert (code, err) == (0, "")
    assert "0 of 40 broken" in out
    results = json.loads((trained / "evaluated" / "results.json").read_text())
    assert (results["examples"], results["subset"], results["seed"], results["passed"]) == (40, 20, 1, True)
    assert set(results["robust_accuracy"]) == {"l_inf 25.5/255", "l_2 0.3"}
    # On 20 examples comparisons say nothing.
    assert [found["passed"] for found in results["diagnostics"]].count(True) == 8
    assert {found["passed"] for found in results["diagnostics"]} == {True, None}


def test_evaluate_of_saturating_scores_exits_with_1(trained, digits, clustr_here):
    import keras

    (images, labels), _ = digits
    layers = [keras.layers.Flatten(), keras.layers.Dense(32, "relu"), keras.layers.Dense(10)]
    network = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    network.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    network.fit(images, labels, epochs=8, verbose=0)
    keras.Sequential([network, keras.layers.Rescaling(1e4), keras.layers.Softmax()]).save(trained / "masked.keras")
    code, out, err = clustr_here("evaluate", "--model", "masked.keras", "--output", "masked", *QUICK, cwd=trained)
    assert (code, err) == (1, "")
    assert re.search("vanishing gradients .* FAIL", out)
    assert not json.loads((trained / "masked" / "results.json").read_text())["passed"]


def test_an_error_that_nobody_expected_is_one_line_too(trained, clustr_here, monkeypatch):
    def fail(*arguments):
        raise TypeError("layers of a kind\nthat is not known")

    monkeypatch.setattr(cli, "_load_any", fail)
    code, out, err = clustr_here("evaluate", "--model", "model.keras", cwd=trained)
    assert (code, out) == (2, "")
    assert err == "clustr: TypeError: layers of a kind that is not known (clustr --debug ... shows where)\n"
    code, _, err = clustr_here("--debug", "evaluate", "--model", "model.keras", cwd=trained)
    assert code == 2
    assert "Traceback" in err
    assert err.endswith("clustr: TypeError: layers of a kind that is not known\n")


def test_errors_are_one_line_and_exit_status_2(trained, clustr_here):
    (trained / "other.keras").write_text("not a model")
    for arguments, message in (
        (("train", "--recipe", "magic"), "no recipe 'magic'; expected one of certified, clustr"),
        (("train", "--data", "imagenet", "--data-dir", "."), "there is no data set 'imagenet'"),
        (("train", "--checkpoint", "here"), "--from, --checkpoint and --fast are for the others"),
        (("train", "--output", "model.h5"), r"must be a \.keras file"),
        (("train", "--devices", "some"), "devices must be all, or a number of at least 1; got 'some'"),
        (("serve", "nowhere"), "nowhere"),
        (("certify", "--model", "other.keras"), "other.keras"),
        (("audit", "--model", "other.keras"), "other.keras"),
        (("evaluate", "--model", "model.keras", "--threat-model", "l_3:1"), "norm must be 'l_inf' or 'l_2'"),
        (("evaluate", "--model", "model.keras", "--attack", "magic"), "there is no attack magic"),
        (
            ("evaluate", "--model", "model.keras", "--threat-model", "l_inf:0.1", "--attack", "carlini-wagner"),
            "nothing would be",
        ),
        (("evaluate", "--model", "serving"), "no SavedModel at"),
        (("query", "--target", "http://127.0.0.1:1"), "UNAVAILABLE"),
        (("serve", "serving", "--label", "stable"), "such as stable=1"),
        (("export", "--model", "model.keras", "--output", "out", "--verify"), "--data digits"),
        (("load-test", "--target", "192.0.2.1:8500"), "--allow-remote"),
        (("serve", "serving", "--engine", "embeded"), "embedded or tensorflow_model_server"),
        (("tune", "--objective", "robust"), "expected one of certified, clean, clean"),
        (("tune", "--chief", "h:1", "--worker", "h:1"), "exclude each other"),
        (("tune", "--retrain", "best.h5"), r"must be a \.keras file"),
    ):
        code, out, err = clustr_here(*arguments, cwd=trained)
        assert code == 2, (arguments, out, err)
        assert re.search(message, err), err
        assert len(err.strip().splitlines()) == 1, err


def test_an_error_of_the_command_itself_is_one_line_too(trained):
    code, out, err = clustr("serve", "nowhere", cwd=trained)
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1


def test_help_names_every_command():
    code, out, _ = clustr("--help", cwd=os.getcwd())
    assert code == 0
    for command in ("demo", "train", "certify", "audit", "evaluate", "tune", "export", "serve", "query", "load-test"):
        assert f" {command} " in out
