"""What is done in a process of Beam's own only: it starts with less, and ends at once."""

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

# As Beam starts a worker, here and in its containers: python -m MAIN.
_MAIN = "apache_beam.runners.worker.sdk_worker_main"
# Keras imports them where they are installed, for wrappers and pictures that nothing here uses, and does without else.
_UNNEEDED = ("sklearn", "matplotlib")


def is_worker(command: Sequence[str] = tuple(sys.orig_argv)) -> bool:
    """Whether a command line, by default that of this process, is that of a worker of Beam's."""
    return _MAIN in command


@contextlib.contextmanager
def unneeded_modules_missing() -> Iterator[None]:
    """In a worker: Keras and TensorFlow are imported meanwhile as if what they can do without were not installed."""
    hidden = [name for name in _UNNEEDED if name not in sys.modules] if is_worker() else []
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def end_at_once() -> None:
    """In a worker: once what is imported later has cleaned up, the process ends without taking its modules apart.

    With TensorFlow among them that takes a second, and Beam waits for one worker after the other.
    """
    if is_worker():
        atexit.register(_end)


def _end() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if hasattr(sys, "last_type") else 0)  # it is set once an exception has ended the program
