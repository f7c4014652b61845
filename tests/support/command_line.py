"""`clustr` as users run it, and in this process."""

import contextlib
import pathlib
import subprocess
import sys

import pytest

from clustr_keras import cli

CLUSTR = pathlib.Path(sys.executable).with_name("clustr")


def clustr(*arguments, cwd, **options):
    """Exit status, stdout and stderr of a fresh process."""
    command = [CLUSTR, *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600, cwd=cwd, **options)
    return done.returncode, done.stdout, done.stderr


def status_of(*arguments, cwd):
    """Exit status of a command that is run here."""
    with contextlib.chdir(cwd), pytest.raises(SystemExit) as ended:
        cli.main([*map(str, arguments)])
    return ended.value.code
