"""Starts TensorFlow without its start-up notes, which are for its developers."""

import contextlib
import os


def start_tensorflow() -> None:
    """Imports TensorFlow, where it is installed, with nothing on stderr."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    stderr = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        # They come from C++ before any logger of TensorFlow's is there: only the file descriptor stops them.
        os.dup2(nowhere.fileno(), 2)
        try:
            with contextlib.suppress(ImportError):  # what needs it will say so, or do without
                import tensorflow as tf

                tf.config.list_physical_devices()
                tf.get_logger().setLevel("ERROR")
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
