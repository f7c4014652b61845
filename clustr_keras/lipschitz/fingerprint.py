"""Tells whether a model is still the one that a bound was proved for."""

import hashlib
import json

import keras
import numpy as np
from keras import ops

from clustr_keras.types import Ints

FINGERPRINT_BYTES = 32


def fingerprint(model: keras.Model | keras.layers.Layer) -> Ints:
    """SHA-256 of what a model computes: its configuration, and the shapes, types and values of its weights.

    Args:
        model: A `keras.Model` or layer.

    Returns:
        uint8 array `[32]`.

    Example:

    >>> fingerprint(backbone).shape
    (32,)
    """
    digest = hashlib.sha256(json.dumps(model.get_config(), sort_keys=True, default=str).encode())
    for variable in model.weights:
        value = np.ascontiguousarray(ops.convert_to_numpy(variable))
        digest.update(f"{value.shape}{value.dtype}".encode())
        digest.update(value.tobytes())
    return np.frombuffer(digest.digest(), dtype="uint8")
