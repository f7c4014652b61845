"""Bounds of convolutions: ordinary, depthwise, separable and transposed, in one to three dimensions."""

import math
from collections.abc import Sequence

import keras
import numpy as np

from clustr_keras.lipschitz.correlations import correlation_norm_bound, is_sharp
from clustr_keras.lipschitz.dense import with_activation
from clustr_keras.lipschitz.frequencies import convolution_norm_bound
from clustr_keras.lipschitz.registry import LayerBound, built_weight, register
from clustr_keras.lipschitz.signals import up
from clustr_keras.lipschitz.spectral import gamma
from clustr_keras.types import Floats

# Without rounding, all of them: the libraries below may use Winograd or FFT kernels, which no such analysis covers.
_HOW = "supremum over all frequencies"


@register(keras.layers.Conv1D)
@register(keras.layers.Conv2D)
@register(keras.layers.Conv3D)
def _of_convolution(call):
    layer = call.operation
    kernel = built_weight(layer, "kernel")
    norm, how = plain_convolution_bound(kernel, layer.strides, layer.dilation_rate, layer.groups)
    return with_activation(LayerBound(norm, how), call)


def plain_convolution_bound(
    kernel: Floats, strides: Sequence[int] = (1, 1), dilation: Sequence[int] = (1, 1), groups: int = 1
) -> tuple[float, str]:
    """The smaller one of what is known about the norm of a convolution.

    Args:
        kernel: float64 array `[*sizes, inputs / groups, outputs]`.
        strides, dilation: Positive integers, one per dimension.
        groups: Number of groups that the channels fall into.

    Returns:
        Float, at least the norm; and a few words on how it was obtained.
    """
    norm = math.inf
    if kernel.ndim == 4 and groups == 1 and set(strides) == {1}:
        # Dilation only puts the frequencies elsewhere.
        norm = correlation_norm_bound(kernel)
        if is_sharp(norm, kernel):
            return norm, "correlations of the float32 kernel"
    over_frequencies = convolution_norm_bound(kernel, strides, dilation, groups)
    return (norm, "correlations of the float32 kernel") if norm < over_frequencies else (over_frequencies, _HOW)


@register(keras.layers.DepthwiseConv1D)
@register(keras.layers.DepthwiseConv2D)
def _of_depthwise_convolution(call):
    layer = call.operation
    kernel = built_weight(layer, "kernel")
    inputs, multiplier = kernel.shape[-2:]
    kernel = kernel.reshape(*kernel.shape[:-2], 1, inputs * multiplier)
    norm = convolution_norm_bound(kernel, layer.strides, layer.dilation_rate, inputs)
    return with_activation(LayerBound(norm, _HOW), call)


@register(keras.layers.SeparableConv1D)
@register(keras.layers.SeparableConv2D)
def _of_separable_convolution(call):
    """The one convolution that both kernels make, multiplied out in float64.

    A convolution's norm is at most the sum of the Frobenius norms of its taps, which bounds what rounding does here.
    """
    layer = call.operation
    depthwise, pointwise = built_weight(layer, "depthwise_kernel"), built_weight(layer, "pointwise_kernel")
    inputs, multiplier = depthwise.shape[-2:]
    pointwise = pointwise.reshape(inputs, multiplier, -1)
    kernel = np.einsum("...im,imo->...io", depthwise, pointwise)
    sizes = np.einsum("...im,imo->...io", np.abs(depthwise), np.abs(pointwise))
    of_product = gamma(multiplier + 4) * float(np.sum(np.sqrt(np.sum(sizes**2, axis=(-2, -1)))))
    norm = up(convolution_norm_bound(kernel, layer.strides, layer.dilation_rate) + 2.0 * of_product)
    return with_activation(LayerBound(norm, f"{_HOW}, of both kernels as one"), call)


@register(keras.layers.Conv1DTranspose)
@register(keras.layers.Conv2DTranspose)
@register(keras.layers.Conv3DTranspose)
def _of_transposed_convolution(call):
    """The adjoint of the convolution with the same kernel, from outputs to inputs."""
    layer = call.operation
    kernel = built_weight(layer, "kernel")
    norm = convolution_norm_bound(kernel, layer.strides, layer.dilation_rate)
    return with_activation(LayerBound(norm, f"{_HOW}, of the adjoint"), call)
