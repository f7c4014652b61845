"""Tells whether weights are still those that a bound was proved for."""

import hashlib

import numpy as np
from keras import ops

FINGERPRINT_BYTES = 32


def fingerprint(model):
    """SHA-256 of a model's weights: paths, shapes, types and values.

    Args:
        model: A `keras.Model` or layer.

    Returns:
        uint8 array `[32]`.
    """
    digest = hashlib.sha256()
    for variable in model.weights:
        value = np.ascontiguousarray(ops.convert_to_numpy(variable))
        digest.update(f"{value.shape}{value.dtype}".encode())
        digest.update(value.tobytes())
    return np.frombuffer(digest.digest(), dtype="uint8")
