import contextlib
import logging
import subprocess
import sys

import pytest

pytest.importorskip("apache_beam", reason="needs the environment of make test-beam")

from clustr_keras.bulk import local_workers, worker_death
from clustr_keras.bulk.local_workers import is_failure, supervised

BEAM = "apache_beam.runners.portability.local_job_service"
FAILURE = 'Worker: severity: ERROR message: "Error processing instruction bundle_3. Original traceback is ..."'
WORKER = "apache_beam.runners.worker.sdk_worker_main"


@contextlib.contextmanager
def child(*arguments):
    """A process that waits, as a worker does by its command line or as any other."""
    with subprocess.Popen(
        [sys.executable, "-c", "input()", *arguments], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        yield process


@pytest.mark.parametrize(
    ("name", "level", "message", "expected"),
    [
        (BEAM, logging.ERROR, FAILURE, True),
        (BEAM, logging.WARNING, FAILURE, False),
        (BEAM, logging.ERROR, "Worker: severity: ERROR message: 'a library is not content'", False),
        ("root", logging.ERROR, FAILURE, False),
        ("clustr_keras.bulk.worker_death", logging.ERROR, worker_death.DEATH, True),
    ],
)
def test_what_counts_as_a_failure(name, level, message, expected):
    assert is_failure(logging.LogRecord(name, level, __file__, 1, message, None, None)) is expected


def test_only_workers_of_the_failed_run_are_ended(monkeypatch):
    monkeypatch.setattr(local_workers, "_GRACE_SECONDS", 0.0)
    with child(WORKER) as before, supervised(), child(WORKER) as worker, child("other") as other:
        logging.getLogger("root of another library").error(FAILURE)
        logging.getLogger(BEAM).error(FAILURE)
        assert worker.wait(timeout=60) == -9
        assert before.poll() is None
        assert other.poll() is None
