"""Keeps worker processes of this machine quiet, and ends those that outlive an error."""

import contextlib
import logging
import os
import tempfile
import threading
from collections.abc import Iterator

import psutil

from clustr_keras.bulk.worker_death import LOGGER, deaths_reported
from clustr_keras.bulk.worker_process import is_worker

# A worker says so when its part of the pipeline has raised, through Beam's logger of local workers. Beam gives up then.
_LOGGER = "apache_beam.runners.portability.local_job_service"
_FAILURE = "Error processing instruction"
# What Beam may take to end its workers once one has failed. It was seen to wait for ever.
_GRACE_SECONDS = 15.0


@contextlib.contextmanager
def supervised() -> Iterator[None]:
    """While a pipeline of local workers runs: what they log goes to a file, which is kept if there is an error.

    Beam logs the failure of a worker, and waits for the others to end; that a worker is dead, it has to be told. If the
    others do not end, they are killed, so that the error comes through. Other errors in the log, other children of this
    process, and workers that were there before are none of its business.

    Raises:
        RuntimeError: The one that was raised within, and where the log is.
    """
    failed, over = threading.Event(), threading.Event()
    before = set(psutil.Process().children(recursive=True))

    class Listener(logging.StreamHandler):
        def emit(self, record):
            super().emit(record)
            if is_failure(record):
                failed.set()

    def end_stuck_workers():
        failed.wait()
        if not over.wait(_GRACE_SECONDS):
            for process in set(psutil.Process().children(recursive=True)) - before:
                with contextlib.suppress(psutil.NoSuchProcess):
                    if is_worker(process.cmdline()):
                        process.kill()

    threading.Thread(target=end_stuck_workers, daemon=True).start()
    descriptor, log = tempfile.mkstemp(prefix="clustr-workers-", suffix=".log")
    try:
        with _stderr_into(descriptor), open(log, "a") as file, _only_handler(Listener(file)), deaths_reported():
            yield
    except RuntimeError as error:
        raise RuntimeError(f"{error} The workers' log: {log}.") from error
    else:
        os.remove(log)
    finally:
        over.set()
        failed.set()


def is_failure(record: logging.LogRecord) -> bool:
    """Whether a record is Beam's that a worker's part of the pipeline has raised, or ours that a worker is dead."""
    is_raised = record.name == _LOGGER and record.levelno >= logging.ERROR and _FAILURE in record.getMessage()
    return is_raised or record.name == LOGGER.name


@contextlib.contextmanager
def _stderr_into(descriptor):
    """Workers inherit the file descriptor, and what comes from C++ goes nowhere else."""
    stderr = os.dup(2)
    os.dup2(descriptor, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(descriptor)


@contextlib.contextmanager
def _only_handler(handler):
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, [handler]
    try:
        yield
    finally:
        root.handlers = handlers
