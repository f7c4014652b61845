"""Batches of few sizes, so that a compiled function is traced once or twice."""

from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from clustr_keras.types import Floats, Ints, Tensor

# The least batch: less saves hardly any time.
_LEAST = 16


def full_batches(rows: Ints, batch_size: int) -> Iterator[tuple[Ints, Ints]]:
    """Cuts rows into batches, the last one filled up with repetitions to a power of 2 of rows.

    Args:
        rows: Ints `[N]`.
        batch_size: Integer.

    Yields:
        The rows of a batch, and the same filled up.
    """
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        size = max(_LEAST, 1 << (len(part) - 1).bit_length())
        yield part, np.resize(part, min(size, batch_size))


def in_full_batches(
    function: Callable[[Tensor, Tensor], Tensor], images: Floats, labels: Ints, batch_size: int
) -> Floats:
    """Results of a function of images and labels, computed in full batches.

    Args:
        function: From float32 images `[B, H, W, C]` and labels `[B]` to a tensor, row by row, for B up to `batch_size`.
        images, labels: Arrays `[N, H, W, C]` and `[N]`.
        batch_size: Integer.

    Returns:
        Array `[N, ...]`.
    """
    results = []
    for rows, filled in full_batches(np.arange(len(images)), batch_size):
        result = function(tf.constant(images[filled], tf.float32), tf.constant(labels[filled]))
        results.append(np.asarray(result)[: len(rows)])
    return np.concatenate(results)
