import contextlib
import io
import json

import pytest
from support.command_line import status_of

TRAIN = ("train", "--epochs", 3, "--devices", "all", "--output", "model.keras", "--json")


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder in which `clustr train` and `clustr export` have been run; what they answered lies there as well."""
    folder = tmp_path_factory.mktemp("cli")
    # With one device, all devices are just that.
    for command in (TRAIN, ("export", "--model", "model.keras", "--output", "serving", "--data", "digits", "--json")):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            assert status_of(*command, cwd=folder) == 0
        (folder / f"{command[0]}.json").write_text(out.getvalue())
    return folder


@pytest.fixture
def answer(trained, clustr_here):
    """Runs `clustr COMMAND ... --json` in that folder: its one JSON document, and its exit status."""

    def run(*arguments):
        code, out, err = clustr_here(*arguments, "--json", cwd=trained)
        assert "Traceback" not in err
        return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")), code

    return run
