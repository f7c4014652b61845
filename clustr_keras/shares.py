"""The shares of a batch that the replicas of a distribution strategy take: which batches can be shared, and by whom."""

import contextlib
import math
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from clustr_keras.backend import can_share, num_replicas
from clustr_keras.data.batches import ImageBatches


def is_array(x: Any) -> bool:
    """Whether `fit` and `evaluate` take `x` for one array, and for no data set."""
    return isinstance(x, np.ndarray | list | tuple) or keras.ops.is_tensor(x)


def check_shares(x: Any, first: int, batch_size: int | None, validation_split: float) -> None:
    """Refuses batches that leave a replica without an example, wherever their sizes are known before training.

    Args:
        x: What `fit` gets: images, or a data set.
        first: The number of examples in `x`, of a data set in its first batch.
        batch_size: As `fit` gets it.
        validation_split: As `fit` gets it.

    Raises:
        ValueError: If there is such a batch.
    """
    count = num_replicas()
    if count == 1:
        return
    for size in _sizes(x, first, batch_size, validation_split):
        if not can_share(size):
            raise ValueError(
                f"a batch of size {size} leaves some of {count} devices without an example. Choose a batch size that "
                "leaves more to the last batch of an epoch, or ImageBatches with drop_remainder=True."
            )


def without_small_batches(x: Any) -> Any:
    """A `tf.data.Dataset` without the batches that leave a replica without an example; anything else as it is.

    It says so, in a line for each such batch.
    """
    count = num_replicas()
    if count == 1 or not hasattr(x, "element_spec"):
        return x
    import tensorflow as tf

    if not isinstance(x, tf.data.Dataset) or keras.tree.flatten(x.element_spec)[0].shape[0] is not None:
        return x

    def is_shared(images: Any, *_: Any) -> Any:
        rows = tf.shape(images)[0]

        def refused() -> Any:
            says = tf.print("fit leaves out a batch of size", rows, "which is too small for", count, "devices.")
            with tf.control_dependencies([says]):
                return tf.constant(False)

        return tf.cond(-(-rows // count) * (count - 1) < rows, lambda: tf.constant(True), refused)

    return x.filter(is_shared)


@contextlib.contextmanager
def quiet_end(is_filtered: bool) -> Iterator[None]:
    """Keeps Keras, which does not know how many batches are left, from calling the end of an epoch an interruption."""
    with warnings.catch_warnings():
        if is_filtered:
            warnings.filterwarnings("ignore", "Your input ran out of data")
        yield


def dealt_out(batch: tuple) -> Iterator[Any]:
    """An iterator over one batch, a tuple of arrays, as `fit` has one over its batches.

    Not the shares themselves: TensorFlow would trace a step anew for their sizes, by replica.
    """
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(batch).batch(len(batch[0]))
    return iter(tf.distribute.get_strategy().experimental_distribute_dataset(dataset))


def first_share(batch: Any) -> Any:
    """What the first replica gets of a batch that was dealt out."""
    import tensorflow as tf

    strategy = tf.distribute.get_strategy()
    return keras.tree.map_structure(lambda rows: strategy.experimental_local_results(rows)[0], batch)


def _sizes(x: Any, first: int, batch_size: int | None, validation_split: float) -> list[int]:
    """Sizes of the first and of the last batch, as far as they are known."""
    if isinstance(x, ImageBatches):
        return [first, 0 if x.drop_remainder else len(x.split) % x.batch_size]
    if isinstance(x, keras.utils.PyDataset):
        is_alike = hasattr(x, "example_batch") or not x.num_batches
        return [first, first if is_alike else len(x[x.num_batches - 1][0])]
    if not is_array(x):
        return [first]
    count = math.floor(first * (1.0 - validation_split))  # as Keras splits
    batch_size = batch_size or 32
    return [min(count, batch_size), count % batch_size]
