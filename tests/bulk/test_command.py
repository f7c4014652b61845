"""What `clustr certify` says of options that do not fit, whether or not Beam is installed."""

import importlib.util
import sys

import pytest

from clustr_keras import cli
from clustr_keras.installation import install_command


def refused(capsys, monkeypatch, *arguments):
    """The one line of an error of `clustr certify`."""
    monkeypatch.setattr(sys, "argv", ["clustr", "certify", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_of:
        cli.main()
    out, err = capsys.readouterr()
    assert (exit_of.value.code, out, err.count("\n")) == (2, "", 1)
    return err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--split", "test"), "--split needs --input"),
        (("--direct_num_workers", "2"), "there is no option or argument --direct_num_workers"),
        (("--input", "digits", "--data", "digits", "--output", "x"), "--data excludes --input"),
        (("--input", "digits"), "--input needs --output"),
    ],
)
def test_options_that_do_not_go_together(saved, capsys, monkeypatch, arguments, message):
    assert message in refused(capsys, monkeypatch, "--model", saved, *arguments)


def test_a_model_that_is_not_there(capsys, monkeypatch):
    assert "--model none.keras does not exist" in refused(capsys, monkeypatch, "--model", "none.keras")


def test_what_is_missing_without_beam(saved, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = refused(capsys, monkeypatch, "--model", saved, "--input", "digits", "--output", tmp_path)
    assert install_command("beam") in said
