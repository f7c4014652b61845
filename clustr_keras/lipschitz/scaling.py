"""Bounds of operations that scale entries: BatchNormalization, Normalization, Rescaling, products with a constant."""

import keras
import numpy as np
from keras.src.ops import numpy as ops_numpy

from clustr_keras.lipschitz.graph import UnknownBoundError
from clustr_keras.lipschitz.registry import (
    FLOAT32_ROUNDOFF,
    LayerBound,
    Rounding,
    as_array,
    built_weight,
    optional_weight,
    register,
)
from clustr_keras.lipschitz.shapes import broadcast_repetition, constant_operand
from clustr_keras.lipschitz.signals import product_upward, up
from clustr_keras.lipschitz.spectral import float32_upward, gamma


@register(keras.layers.BatchNormalization)
def _of_batch_normalization(call):
    """`max |gamma / sqrt(var + eps)|`, the moving variance's: at inference the layer is affine."""
    layer = call.operation
    variance, scale = built_weight(layer, "moving_variance"), optional_weight(layer, "gamma")
    if not (variance + layer.epsilon > 0.0).all():
        raise ValueError("its moving variance plus epsilon is not positive.")
    scale = np.ones_like(variance) if scale is None else scale
    # The factor is computed and stored in float32 by the layer, by way of a reciprocal square root.
    norm = float(np.max(np.abs(scale) / np.sqrt(variance + layer.epsilon))) * (1.0 + 8.0 * FLOAT32_ROUNDOFF)
    return LayerBound(up(norm), "largest |gamma / sqrt(variance + epsilon)|")


@register(keras.layers.Normalization)
def _of_normalization(call):
    layer = call.operation
    if not layer.built or layer.variance is None:
        raise UnknownBoundError(f"Normalization {layer.name!r} is not built. Adapt it, or call it once.")
    variance = as_array(layer.variance, "float64")
    if not (np.isfinite(variance).all() and (variance >= 0.0).all() and np.isfinite(as_array(layer.mean)).all()):
        raise ValueError("its mean or variance is not finite, or its variance negative, so has no bound.")
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    factors = deviation if layer.invert else 1.0 / deviation
    norm = float(factors.max()) * (1.0 + 8.0 * FLOAT32_ROUNDOFF)
    if variance.size > 1:
        _refuse_repetition(call, variance.shape)
    return LayerBound(up(norm), "largest scale")


@register(keras.layers.Rescaling)
def _of_rescaling(call):
    layer = call.operation
    scale, offset = as_array(layer.scale, "float64"), as_array(layer.offset, "float64")
    if not (np.isfinite(scale).all() and np.isfinite(offset).all()):
        raise ValueError("scale and offset must be finite.")
    if scale.ndim and keras.config.image_data_format() == "channels_first":
        scale = scale.reshape(scale.shape + (1,) * (3 - scale.ndim))
    # The factor in use is the scale in the layer's own format.
    largest = float(np.abs(scale).max()) * (1.0 if layer.compute_dtype in ("float32", "float64") else 1.01)
    factor = float32_upward(largest)
    if scale.ndim or offset.ndim:
        _refuse_repetition(call, np.broadcast_shapes(scale.shape, offset.shape))
    rounding = None
    if scale.ndim == 0 and offset.ndim == 0 and offset == 0.0:
        # The factor is rounded, and so is the product, which may be flushed to zero.
        rounding = Rounding(relative=up(factor * gamma(2, FLOAT32_ROUNDOFF)), absolute=1e-30)
    return LayerBound(factor, "its scale", rounding)


def _refuse_repetition(call, shape):
    """The layer would report the shape of its input for an output that is larger."""
    if broadcast_repetition(call, np.empty(shape)) != 1.0:
        raise UnknownBoundError(
            f"{type(call.operation).__name__} {call.operation.name!r} broadcasts its input to its constants' shape "
            f"{shape}. Give it constants that fit the input."
        )


@register(ops_numpy.Multiply)
def _of_product(call):
    constant, _ = constant_operand(call, "a product of two tensors is not Lipschitz. Multiply by a constant")
    factor = float32_upward(float(np.abs(constant).max()))
    return LayerBound(product_upward(factor, broadcast_repetition(call, constant)), "the largest factor")


@register(ops_numpy.Divide)
@register(ops_numpy.TrueDivide)
def _of_quotient(call):
    constant, is_first = constant_operand(call, "a quotient of two tensors is not Lipschitz. Divide by a constant")
    if is_first:
        raise UnknownBoundError(f"{call.operation.name!r} divides by a tensor, which is not Lipschitz.")
    smallest = float(np.abs(constant).min())
    if smallest < 2.0**-100:
        raise ValueError("it divides by zero, or by something too close to it.")
    factor = float32_upward((1.0 / smallest) * (1.0 + 4.0 * FLOAT32_ROUNDOFF))
    return LayerBound(product_upward(factor, broadcast_repetition(call, constant)), "the smallest divisor")


@register(ops_numpy.Negative)
@register(ops_numpy.Absolute)
@register(ops_numpy.Abs)
def _of_sign(_):
    return LayerBound(1.0, "changes signs", Rounding())


@register(ops_numpy.Clip)
def _of_clip(call):
    for end in (call.operation.x_min, call.operation.x_max):
        if end is not None and np.ndim(end) > 0:
            raise UnknownBoundError(f"{call.operation.name!r} clips to an array; only numbers are known. Use one.")
    return LayerBound(1.0, "a projection")
