import subprocess
import sys

import pytest

from clustr_keras.bulk import worker_process

WORKER = "apache_beam.runners.worker.sdk_worker_main"
PROGRAM = """
import atexit
from clustr_keras.bulk.worker_process import end_at_once

class Module:
    def __del__(self):
        print("taken apart")

module = Module()
end_at_once()
atexit.register(print, "cleaned up")
print("done")
"""


@pytest.mark.parametrize(
    ("arguments", "last", "expected"),
    [
        ([WORKER], "", (0, "done cleaned up")),
        ([WORKER], "raise RuntimeError", (1, "done cleaned up")),
        ([], "", (0, "done cleaned up taken apart")),
    ],
)
def test_a_worker_ends_at_once(arguments, last, expected):
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM + last, *arguments], check=False, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, " ".join(ended.stdout.split())) == expected


def test_a_worker_imports_without_what_it_does_not_need(monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    monkeypatch.setattr(worker_process, "_UNNEEDED", ("colorsys", "json"))
    with worker_process.unneeded_modules_missing():
        import colorsys
    monkeypatch.delitem(sys.modules, "colorsys")
    monkeypatch.setattr(worker_process, "is_worker", lambda: True)
    with worker_process.unneeded_modules_missing():
        import json  # it was there already

        with pytest.raises(ImportError):
            import colorsys
    import colorsys

    assert colorsys.rgb_to_hsv(0, 0, 0) == (0, 0, 0)
    assert json.loads("1") == 1
