"""`clustr` as a whole: help, errors, interruption, completion. The commands are in tests/commands."""

import json
import os
import re
import subprocess
import sys

import keras
import pytest
from support.command_line import clustr

from clustr_keras.cli import app

COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]
LIGHT = """
import json, sys
from clustr_keras.cli import main
try:
    main()
finally:
    print(json.dumps([name for name in ("tensorflow", "keras", "numpy", "rich.table") if name in sys.modules]))
"""


def light(*arguments, **variables):
    """Lines that `clustr` prints, and the heavy modules it imported."""
    command = [sys.executable, "-c", LIGHT, *arguments]
    environment = {**os.environ, "COLUMNS": "80", **variables}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=environment)
    *lines, imported = done.stdout.splitlines()
    return lines, json.loads(imported)


@pytest.mark.parametrize("arguments", [("--help",), ()])
def test_help_fits_a_screen_and_names_every_command(arguments):
    lines, imported = light(*arguments)
    assert imported == []
    assert len(lines) < 24  # and a line for what comes next
    assert max(map(len, lines)) < 80
    listed = [line.split()[0] for line in lines[lines.index("Commands:") + 1 :]]
    assert listed == COMMANDS
    assert not any(line.endswith("...") for line in lines[1:])


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_fits_the_width(command, clustr_here, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = clustr_here(command, "--help", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert "\n  --json " in out


def completing(line):
    """The variables that a shell's completion of the last word of a line sets."""
    return {"_CLUSTR_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}


def test_completion_and_help_of_a_command_are_light():
    assert light(**completing("clustr train --recipe st")) == (["standard"], [])
    assert light("certify", "--help")[1] == []


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("clustr tr", ["train"]),
        ("clustr train --rec", ["--recipe"]),
        ("clustr train --recipe clustr-", ["clustr-qtrades", "clustr-qtrades-paper"]),
        ("clustr tune --objective c", ["certified", "clean", "clean+certified", "clean+robust"]),
        ("clustr tune --tuner ", ["random", "bayesian", "hyperband"]),
        ("clustr evaluate --attack pgd-1", ["pgd-100"]),
        ("clustr evaluate --attack a", ["autoattack", "all"]),
        ("clustr evaluate --scores l", ["log"]),
        ("clustr export --method ", ["nearest", "union", "exact"]),
        ("clustr certify --data dig", ["digits"]),
        ("clustr serve --engine e", ["embedded"]),
    ],
)
def test_completion_knows_what_there_is_to_choose(line, offered, clustr_here, tmp_path, monkeypatch):
    for name, value in completing(line).items():
        monkeypatch.setenv(name, value)
    code, out, err = clustr_here(cwd=tmp_path)
    assert (code, out.split(), err) == (0, offered, "")


def test_completion_is_installed_for_a_shell(tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    code, out, err = clustr("--show-completion", "zsh", cwd=tmp_path, env=environment)
    assert (code, err) == (0, "")
    assert "_CLUSTR_COMPLETE=complete_zsh" in out
    code, _, err = clustr("--install-completion", "bash", cwd=tmp_path, env=environment)
    assert (code, err) == (0, "")
    assert "_CLUSTR_COMPLETE=complete_bash" in (tmp_path / ".bash_completions" / "clustr.sh").read_text()


def test_an_error_that_nobody_expected_is_one_line_too(tmp_path, clustr_here, monkeypatch):
    def fail(*arguments):
        raise TypeError("layers of a kind\nthat is not known")

    monkeypatch.setattr("clustr_keras.commands.evaluate.load_any", fail)
    code, out, err = clustr_here("evaluate", "--model", "model.keras", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err == "clustr: TypeError: layers of a kind that is not known (clustr --debug ... shows where)\n"
    for arguments in (("--debug", "evaluate"), ("evaluate", "--debug")):
        code, _, err = clustr_here(*arguments, "--model", "model.keras", cwd=tmp_path)
        assert code == 2
        assert "Traceback" in err
        assert err.endswith("clustr: TypeError: layers of a kind that is not known\n")


def test_a_command_that_is_interrupted_says_nothing(tmp_path, clustr_here, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("clustr_keras.commands.evaluate.load_any", interrupt)
    assert clustr_here("evaluate", "--model", "model.keras", cwd=tmp_path) == (130, "", "")


class Doubled(keras.layers.Layer):
    """A layer that is registered nowhere."""

    def call(self, inputs):
        return 2 * inputs


@pytest.fixture(scope="module")
def folder(tmp_path_factory, classifier):
    """A folder with a model, and with a file that is none."""
    folder = tmp_path_factory.mktemp("errors")
    classifier.save(folder / "model.keras")
    (folder / "other.keras").write_text("not a model")
    keras.Sequential([keras.Input((8, 8, 1)), Doubled()]).save(folder / "custom.keras")
    (folder / "serving" / "1").mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("traim",), "no such command 'traim'. Did you mean 'train'.*; see clustr --help"),
        (("--verbose",), "no such option: --verbose.*; see clustr --help"),
        (("train", "--epoch", "3"), "no such option: --epoch.*; see clustr train --help"),
        (("train", "--epochs", "0"), "invalid value for '--epochs'.*; see clustr train --help"),
        (("train", "--epochs", "many", "--json"), "invalid value for '--epochs'.*; see clustr train --help"),
        (("train", "extra"), "unexpected extra argument.*extra.*; see clustr train --help"),
        (("certify",), "missing option '--model'; see clustr certify --help"),
        (("train", "--recipe", "magic"), "'magic' is not one of 'certified', 'clustr', .*; see clustr train --help"),
        (("train", "--data", "imagenet", "--data-dir", "."), "there is no data set 'imagenet'"),
        (("train", "--image-size", "big"), "--image-size must be pixels, such as 64 or 64x48"),
        (("train", "--image-size", "8x"), "--image-size must be pixels"),
        (("train", "--image-size", "0"), "--image-size must be pixels"),
        (("certify", "--model", "model.keras", "--input", "images", "--image-size", "8"), "--resize brings"),
        (("train", "--checkpoint", "here"), "--from, --checkpoint, --fast and --eps are for the others"),
        (("train", "--eps", "0.1"), "--from, --checkpoint, --fast and --eps are for the others"),
        (("train", "--recipe", "clustr", "--eps", "0.1"), "--eps is for recipes that train on attacked images"),
        (("tune", "--eps", "0.1"), "--radius is for the recipe certified, and --eps for the others"),
        (("tune", "--recipe", "trades", "--radius", "0.1"), "--radius is for the recipe certified, and --eps for the"),
        (("train", "--output", "model.h5"), r"must be a \.keras file"),
        (("train", "--devices", "some"), "devices must be all, or a number of at least 1; got 'some'"),
        (("train", "--recipe", "clustr", "--from", "none.keras"), "--from none.keras does not exist"),
        (("serve", "nowhere"), "nowhere"),
        (("certify", "--model", "other.keras"), "other.keras"),
        (("certify", "--model", "none.keras", "--json"), "--model none.keras does not exist"),
        (("certify", "--model", "serving", "--method", "exact"), "settled when serving was exported"),
        (("audit", "--model", "other.keras"), "other.keras"),
        (("evaluate", "--model", "model.keras", "--threat-model", "l_3:1"), "norm must be 'l_inf' or 'l_2'"),
        (("evaluate", "--model", "model.keras", "--attack", "magic"), "no attack magic; expected some of pgd-20, "),
        (
            ("evaluate", "--model", "model.keras", "--threat-model", "l_inf:0.1", "--attack", "carlini-wagner"),
            "nothing would be",
        ),
        (("evaluate", "--model", "serving"), "no SavedModel at"),
        (("query", "--target", "http://127.0.0.1:1"), "UNAVAILABLE.*clustr serve starts one, --target names another"),
        (("query", "none.png"), "none.png"),
        (("query", "none.png", "--data", "digits"), "--data excludes files"),
        (("query", "--version", "1", "--label", "stable"), "--version and --label exclude each other"),
        (("certify", "--model", "model.keras", "--radius", "1/0"), "'1/0' is no number, such as 0.5 or 36/255"),
        (("train", "--radius", "-1"), "'-1' is not finite and at least 0"),
        (("train", "--recipe", "standard", "--radius", "0.1"), "--radius and --margin are for the recipe certified"),
        (("train", "--recipe", "standard", "--margin", "0.1"), "--radius and --margin are for the recipe certified"),
        (("export", "--model", "model.keras", "--output", "out", "--radius", "0.1"), "give --data"),
        (("certify", "--model", "model.keras", "--input", "images", "--radius", "0.1"), "Parquet files hold every"),
        (("certify", "--model", "model.keras", "--import", "none.py"), "--import none.py: there is no such module"),
        (("certify", "--model", "custom.keras"), "holds a Doubled, which nothing here knows. Say --import"),
        (("serve", "serving", "--label", "stable"), "such as stable=1"),
        (("export", "--model", "model.keras", "--output", "out", "--verify"), "--data digits"),
        (("export", "--model", "serving", "--output", "out"), "needs no export"),
        (("load-test", "--target", "192.0.2.1:8500"), "--allow-remote"),
        (("serve", "serving", "--engine", "embeded"), "embedded or tensorflow_model_server"),
        (("tune", "--tuner", "grid"), "'grid' is not one of 'random', 'bayesian', 'hyperband'"),
        (("tune", "--objective", "robust"), "expected one of certified, clean, clean"),
        (("tune", "--chief", "h:1", "--worker", "h:1"), "exclude each other"),
        (("tune", "--retrain", "best.h5"), r"must be a \.keras file"),
    ],
)
def test_errors_are_one_line_and_exit_status_2(folder, clustr_here, arguments, message):
    code, out, err = clustr_here(*arguments, cwd=folder)
    assert (code, out) == (2, ""), err
    assert re.fullmatch(rf"clustr: .*{message}.*\n", err), err


def test_an_error_in_a_fresh_process_is_one_line_too(tmp_path):
    code, out, err = clustr("serve", "nowhere", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
