"""Keeps worker processes of this machine quiet, and ends those that outlive an error."""

import contextlib
import logging
import os
import tempfile
import threading
from collections.abc import Iterator

import psutil

# What Beam may take to end its workers once one has failed. It was seen to wait for ever.
_GRACE_SECONDS = 15.0


@contextlib.contextmanager
def supervised() -> Iterator[None]:
    """While a pipeline of local workers runs: what they log goes to a file, which is kept if there is an error.

    Beam logs the error of a worker, stops the others, and waits for them to end. If they do not, they are killed, so
    that the error comes through.

    Raises:
        RuntimeError: The one that was raised within, and where the log is.
    """
    failed, over = threading.Event(), threading.Event()

    class Listener(logging.StreamHandler):
        def emit(self, record):
            super().emit(record)
            if record.levelno >= logging.ERROR:
                failed.set()

    def end_stuck_workers():
        failed.wait()
        if not over.wait(_GRACE_SECONDS):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    threading.Thread(target=end_stuck_workers, daemon=True).start()
    descriptor, log = tempfile.mkstemp(prefix="clustr-workers-", suffix=".log")
    try:
        with _stderr_into(descriptor), open(log, "a") as file, _only_handler(Listener(file)):
            yield
    except RuntimeError as error:
        raise RuntimeError(f"{error} The workers' log: {log}.") from error
    else:
        os.remove(log)
    finally:
        over.set()
        failed.set()


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
