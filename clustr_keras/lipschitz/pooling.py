"""Bounds of pooling layers, with the overlap of their windows counted."""

import math
from collections.abc import Iterable

import keras
import numpy as np

from clustr_keras.lipschitz.graph import Call
from clustr_keras.lipschitz.registry import LayerBound, Rounding, register
from clustr_keras.lipschitz.shapes import known_shape, sizes_along, spatial_axes
from clustr_keras.lipschitz.signals import product_upward, root_upward, up
from clustr_keras.lipschitz.spectral import spectral_norm_bound

# Beyond that an averaging matrix is bounded by its largest row and column sums.
_LARGEST_MATRIX = 1024


def _windows(size, pool, stride, padding):
    """First and last index (exclusive) of each window along one dimension, cut off at the input's ends."""
    if padding == "valid":
        starts = np.arange((size - pool) // stride + 1) * stride
    else:
        count = -(-size // stride)
        before = max((count - 1) * stride + pool - size, 0) // 2
        starts = np.arange(count) * stride - before
    return np.maximum(starts, 0), np.minimum(starts + pool, size)


def _per_dimension(call: Call) -> Iterable[tuple[int | None, int, int]]:
    """Size (`None` if open), window and stride of each dimension."""
    layer = call.operation
    sizes: list[int | None] = [None] * len(layer.pool_size)
    if call.input_shapes:
        sizes = [call.input_shapes[0][axis] for axis in spatial_axes(layer, len(sizes))]
    return zip(sizes, layer.pool_size, layer.strides, strict=True)


def _average_norm(size, pool, stride, padding):
    """Norm of averaging along one dimension. With an open size: rows sum to 1, columns to at most their number of
    windows, and the norm is at most the root of the product.
    """
    if size is None:
        return up(math.sqrt(-(-pool // stride)))
    first, last = _windows(size, pool, stride, padding)
    if len(first) * size > _LARGEST_MATRIX**2:
        index = np.arange(size)
        covering = [slice(np.searchsorted(last, i, "right"), np.searchsorted(first, i, "right")) for i in index]
        columns = max(float(np.sum(1.0 / (last[c] - first[c]))) for c in covering)
        return math.sqrt(columns) * (1.0 + 1e-12)
    index = np.arange(size)
    matrix = ((index >= first[:, None]) & (index < last[:, None])) / (last - first)[:, None]
    return up(spectral_norm_bound(matrix))


def _overlap(size, pool, stride, padding):
    """The largest number of windows that one entry is in."""
    if size is None:
        return -(-pool // stride)
    first, last = _windows(size, pool, stride, padding)
    index = np.arange(size)
    return int(max(np.searchsorted(first, index, "right") - np.searchsorted(last, index, "right")))


@register(keras.layers.AveragePooling1D)
@register(keras.layers.AveragePooling2D)
@register(keras.layers.AveragePooling3D)
def _of_average_pooling(call):
    """The Kronecker product of one averaging matrix per dimension: the divisor, too, is a product."""
    norm = 1.0
    for dimension in _per_dimension(call):
        norm = product_upward(norm, _average_norm(*dimension, call.operation.padding))
    return LayerBound(norm, "norms of the averages along each dimension")


@register(keras.layers.MaxPooling1D)
@register(keras.layers.MaxPooling2D)
@register(keras.layers.MaxPooling3D)
def _of_max_pooling(call):
    """`|max x - max y| <= max |x - y|` in each window: in the sum of squares an entry counts once per window."""
    overlap = math.prod(_overlap(*dimension, call.operation.padding) for dimension in _per_dimension(call))
    norm = root_upward([1.0] * overlap)
    return LayerBound(norm, f"an entry is in up to {overlap} windows", Rounding())


@register(keras.layers.GlobalMaxPooling1D)
@register(keras.layers.GlobalMaxPooling2D)
@register(keras.layers.GlobalMaxPooling3D)
def _of_global_max_pooling(_):
    return LayerBound(1.0, "a maximum", Rounding())


@register(keras.layers.GlobalAveragePooling1D)
@register(keras.layers.GlobalAveragePooling2D)
@register(keras.layers.GlobalAveragePooling3D)
def _of_global_average_pooling(call):
    rank = len(known_shape(call)) - 1
    size = math.prod(sizes_along(call, spatial_axes(call.operation, rank)))
    return LayerBound(up(1.0 / math.sqrt(size)), f"a mean of {size}")
