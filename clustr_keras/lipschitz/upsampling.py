"""Bounds of upsampling layers, by repetition and by interpolation."""

import functools
import math

import keras
import numpy as np

from clustr_keras.lipschitz.registry import LayerBound, Rounding, as_array, register
from clustr_keras.lipschitz.shapes import sizes_along, spatial_axes
from clustr_keras.lipschitz.signals import product_upward, root_upward, up
from clustr_keras.lipschitz.spectral import spectral_norm_bound

# Relative error of a weight that float32 evaluation shows, generously.
_OF_A_WEIGHT = 2.0**-18


def _repetition(copies):
    return LayerBound(root_upward([1.0] * copies), f"{copies} copies of each entry", Rounding())


@register(keras.layers.UpSampling1D)
def _of_upsampling_1d(call):
    return _repetition(int(call.operation.size))


@register(keras.layers.UpSampling3D)
def _of_upsampling_3d(call):
    return _repetition(math.prod(call.operation.size))


@register(keras.layers.UpSampling2D)
def _of_upsampling_2d(call):
    """Interpolation is the Kronecker product of one matrix per dimension, whose norm may exceed the root of its factor:
    weights of bicubic and Lanczos interpolation are negative in part.
    """
    layer = call.operation
    if layer.interpolation == "nearest":
        return _repetition(math.prod(layer.size))
    norm = 1.0
    for size, factor in zip(sizes_along(call, spatial_axes(layer, 2)), layer.size, strict=True):
        norm = product_upward(norm, _interpolation_norm(size, factor, layer.interpolation))
    return LayerBound(norm, f"norms of the {layer.interpolation} matrices")


@functools.lru_cache(maxsize=256)
def _interpolation_norm(size, factor, interpolation):
    """Norm of the matrix that the layer applies along one dimension, read off its answers to unit vectors.

    Each weight is read with an error of at most a few float32 roundings; in Frobenius norm, which bounds the spectral
    one, that is `_OF_A_WEIGHT` times the root of the sum of squares, weights that vanish included as `_OF_A_WEIGHT`.
    """
    layer = keras.layers.UpSampling2D((factor, 1), interpolation=interpolation, data_format="channels_last")
    unit_vectors = np.eye(size, dtype="float32")[:, :, None, None]
    matrix = as_array(layer(unit_vectors), "float64")[:, :, 0, 0]
    largest = max(1.0, float(np.abs(matrix).max()))
    # A window of Lanczos-5 has at most 10 + 2 weights per output.
    of_reading = _OF_A_WEIGHT * largest * math.sqrt(matrix.shape[1] * min(size, 12))
    return up(spectral_norm_bound(matrix) + of_reading)
