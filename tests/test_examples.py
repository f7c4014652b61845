import pathlib
import re
import runpy
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
ARGUMENTS = {"tune_digits.py": ("--trials", "2", "--epochs", "1")}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_example_runs_and_is_short(name, tmp_path, monkeypatch, capsys):
    assert len((EXAMPLES / name).read_text().splitlines()) < 80
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *ARGUMENTS[name]])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert re.search(r"0\.\d+ certified at 0\.3", capsys.readouterr().out)
