"""Batches of one size, so that a compiled function is traced once."""

import numpy as np
import tensorflow as tf


def full_batches(rows, batch_size):
    """Cuts rows into batches, the last one filled up with repetitions.

    Args:
        rows: Ints `[N]`.
        batch_size: Integer.

    Yields:
        The rows of a batch, and the same filled up to `[batch_size]`.
    """
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        yield part, np.resize(part, batch_size)


def in_full_batches(function, images, labels, batch_size):
    """Results of a function of images and labels, computed in full batches.

    Args:
        function: From float32 images `[batch_size, H, W, C]` and labels `[batch_size]` to a tensor, row by row.
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
