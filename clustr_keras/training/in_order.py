"""Data sets whose batches depend on the steps before, and how `fit` takes them."""

import sys
import threading
import time
from collections.abc import Iterator
from types import CodeType
from typing import TYPE_CHECKING

import keras
import numpy as np
from keras.src.trainers.data_adapters.data_adapter import DataAdapter

from clustr_keras.types import Floats

if TYPE_CHECKING:
    import tensorflow as tf

# A thread that waits looks so often, in seconds, whether `fit` still runs.
_PATIENCE = 0.5


class InOrderBatches(keras.utils.PyDataset, DataAdapter):
    """Data set that `fit` takes in order and no further ahead than `lag` batches.

    A `DataAdapter` is handed through by `fit` as it is. The one that Keras has for a `PyDataset` would shuffle the
    indices, ask for two batches before any callback runs, and prefetch as many as it likes.

    A subclass has `num_batches`, `lag`, `example_batch()`, a batch to see shapes from, and `__getitem__`, which calls
    `wait()` while it holds `changed` and a batch cannot be made yet. A callback calls `begin_training`,
    `announce_epoch` and `end_training`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.changed = threading.Condition()
        self._fit: tuple[int, CodeType] | None = None
        self._is_announced = self._was_reset = False
        self._begun = self._made = np.zeros(0)

    @property
    def seconds_waited(self) -> Floats:
        """Seconds that each step of the last epoch waited for its batch, floats `[steps]`."""
        return np.maximum(self._made - self._begun, 0.0)

    def begin_training(self) -> None:
        """Notes which `fit` is running."""
        frame = sys._getframe()
        while frame.f_back is not None and frame.f_code.co_name != "fit":
            frame = frame.f_back
        self._fit = threading.get_ident(), frame.f_code

    def announce_epoch(self) -> None:
        """Says that an epoch is about to begin."""
        self._is_announced = True
        self._begun, self._made = np.zeros(self.num_batches), np.zeros(self.num_batches)

    def begin_step(self, step: int) -> None:
        """Notes the time at which a step begins to need its batch."""
        self._begun[step] = time.perf_counter()

    def end_training(self) -> None:
        """Says that `fit` is about to end; a thread that still waits gets an error."""
        with self.changed:
            self._fit = None
            self._was_reset = False
            self.changed.notify_all()

    def wait(self) -> bool:
        """Waits until something changed.

        Returns:
            Whether it was any use: a thread that brings the changes itself, or is not part of a `fit`, cannot wait.

        Raises:
            RuntimeError: If `fit` ended, or was interrupted.
        """
        if self._fit is None or self._fit[0] == threading.get_ident():
            return False
        self.changed.wait(_PATIENCE)
        if self._fit is None or not _is_running(*self._fit):
            raise RuntimeError("fit ended or was interrupted while a batch was being made for it.")
        return True

    def on_epoch_begin(self) -> None:
        """Called by `fit`.

        Raises:
            RuntimeError: If no callback has announced the epoch.
        """
        # Keras resets the data once before its callbacks run. Until then it may take a batch to build the model.
        is_announced, was_reset = self._is_announced, self._was_reset
        self._is_announced = self._was_reset = False
        if not is_announced:
            self._fit = None
            if was_reset:
                raise RuntimeError(
                    f"fit was given {type(self).__name__} without the callback that brings clusters and losses. "
                    "Pass callbacks=[KMeansRefresh(batches)]."
                )

    def on_epoch_end(self) -> None:
        """Called by `fit`, once before its first epoch too."""
        self._was_reset = True

    def get_tf_dataset(self) -> "tf.data.Dataset":
        """The batches of an epoch as a `tf.data.Dataset`."""
        import tensorflow as tf

        signature = tuple(tf.TensorSpec(array.shape, array.dtype) for array in self.example_batch())
        dataset = tf.data.Dataset.from_generator(self._stream, output_signature=signature)
        # While step t runs, no batch after t + lag is asked for. That one needs the losses up to step t - 1, which are
        # there. So without a distribution strategy, which prefetches on its own, no thread of TensorFlow ever waits.
        return dataset.prefetch(self.lag) if self.lag else dataset

    def get_jax_iterator(self) -> Iterator[tuple[np.ndarray, ...]]:
        """The batches of an epoch."""
        return self._stream()

    def get_numpy_iterator(self) -> Iterator[tuple[np.ndarray, ...]]:
        """The batches of an epoch."""
        return self._stream()

    def _stream(self):
        if self._fit is None:
            yield self.example_batch()  # no callback has run yet: Keras builds the model
            return
        for step in range(self.num_batches):
            batch = self[step]
            self._made[step] = time.perf_counter()
            yield batch


def _is_running(thread, code):
    """Whether a thread is inside a function. An interrupted `fit` gives no other sign of its end.

    A thread of TensorFlow that waited on would block for ever whoever deletes the data set.
    """
    frame = sys._current_frames().get(thread)
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame is not None
