import pathlib
import re
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
ARGUMENTS = {"tune_digits.py": ("--trials", "2", "--epochs", "1")}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_example_runs_and_is_short(name, tmp_path):
    assert len((EXAMPLES / name).read_text().splitlines()) < 80
    command = [sys.executable, EXAMPLES / name, *ARGUMENTS[name]]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"0\.\d+ certified at 0\.3", done.stdout)
