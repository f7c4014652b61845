"""Convolutions as products of matrices with short sums, whose rounding in float32 is known."""

from typing import Any

import keras
import numpy as np
from keras import ops

from clustr_keras.lipschitz.blocked_dense import block_length, check_activation
from clustr_keras.lipschitz.circular_conv import CircularConv2D, wrapped
from clustr_keras.lipschitz.convolutions import plain_convolution_bound
from clustr_keras.lipschitz.dense import product_rounding, with_activation
from clustr_keras.lipschitz.registry import LayerBound, built_weight, optional_weight, register
from clustr_keras.lipschitz.spectral import gamma, spectral_norm_bound
from clustr_keras.types import Shape, Tensor


class BlockedConv2D(keras.layers.Layer):
    """Convolution that is computed as a sum of products of matrices, one for each block of its kernel.

    A library may compute a convolution by Winograd's or Fourier's transform, which round differently than a sum of
    products does, and by which is not told. Here the entries under each pixel's window are moved into the rows of a
    matrix, a block of them at a time, and multiplied with that block of the kernel: a sum of `m` blocks of length `k`,
    like that of `BlockedDense` and with the same bound of its rounding. The result is that of the convolution up to
    rounding. For inference only: it is made from a convolution, and not saved.

    Args:
        convolution: A built `keras.layers.Conv2D` with channels last, one group and a linear or ReLU activation, or a
            `CircularConv2D`; its weights are copied.

    Input shape:
        `[B, H, W, C]`.

    Output shape:
        As that of the convolution.

    Raises:
        ValueError: If the convolution is of another kind.

    Example:

    >>> BlockedConv2D(convolution)(x)
    """

    def __init__(self, convolution: keras.layers.Conv2D | CircularConv2D, **kwargs: Any) -> None:
        super().__init__(name=convolution.name, dtype=convolution.dtype_policy, **kwargs)
        if isinstance(convolution, CircularConv2D):
            self.padding, self.strides, self.dilation = "circular", (1, 1), (1, 1)
            self.activation = keras.activations.linear
        else:
            check_activation(convolution)
            if convolution.groups != 1 or convolution.data_format != "channels_last":
                raise ValueError(
                    f"{convolution.name!r} must have one group and channels last; got {convolution.groups} groups and "
                    f"{convolution.data_format}."
                )
            self.padding, self.strides = convolution.padding, convolution.strides
            self.dilation, self.activation = convolution.dilation_rate, convolution.activation
        self.kernel = self._copied("kernel", convolution.kernel)
        self.bias = None if convolution.bias is None else self._copied("bias", convolution.bias)
        self.blocks = _blocks(self.kernel.shape)
        self.built = True

    def _copied(self, name, weight):
        copy = self.add_weight(name=name, shape=weight.shape, initializer="zeros", trainable=False)
        copy.assign(ops.copy(weight))
        return copy

    def call(self, inputs: Tensor) -> Tensor:
        """Convolves."""
        batch, rows, columns, filters = self.compute_output_shape(ops.shape(inputs))
        padded = self._padded(inputs)
        outputs = 0.0
        for block in self.blocks:
            entries = [self._entries(padded, rows, columns, *part) for part in block]
            weights = [self.kernel[row, column, first:last] for row, column, first, last in block]
            entries, weights = ops.concatenate(entries, axis=-1), ops.concatenate(weights, axis=0)
            outputs += ops.matmul(ops.reshape(entries, (-1, weights.shape[0])), weights)
        outputs = ops.reshape(outputs, (batch, rows, columns, filters))
        if self.bias is not None:
            outputs = outputs + self.bias
        return self.activation(outputs)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Returns `[B, rows, columns, filters]`."""
        batch, *before, _ = input_shape
        reaches = [0, 0] if self.padding != "valid" else self._reaches()
        sizes = (
            None if size is None else (size - reach - 1) // stride + 1
            for size, reach, stride in zip(before, reaches, self.strides, strict=True)
        )
        return (batch, *sizes, self.kernel.shape[-1])

    def _reaches(self):
        """How far a window reaches from its first pixel, along each side."""
        return [(size - 1) * dilation for size, dilation in zip(self.kernel.shape[:2], self.dilation, strict=True)]

    def _padded(self, inputs):
        """The images with what the windows at their edges reach."""
        if self.padding == "valid":
            return inputs
        margins = [(0, 0)]
        for size, reach, stride in zip(ops.shape(inputs)[1:3], self._reaches(), self.strides, strict=True):
            if stride > 1:
                reach = (size - 1) // stride * stride + reach + 1 - size
                # A size that is not known yet is a tensor.
                reach = max(0, reach) if isinstance(reach, int) else ops.maximum(0, reach)
            margins.append((reach // 2, reach - reach // 2))
        if self.padding == "circular":
            return wrapped(wrapped(inputs, *margins[1], axis=1), *margins[2], axis=2)
        return ops.pad(inputs, [*margins, (0, 0)])

    def _entries(self, padded, rows, columns, row, column, first, last):
        """The channels from `first` to `last` of the pixel at one place in each window."""
        (row_stride, column_stride), (row_dilation, column_dilation) = self.strides, self.dilation
        top, left = row * row_dilation, column * column_dilation
        return padded[
            :,
            top : top + (rows - 1) * row_stride + 1 : row_stride,
            left : left + (columns - 1) * column_stride + 1 : column_stride,
            first:last,
        ]


def _blocks(shape):
    """The entries of a kernel, pixel by pixel, cut into blocks: lists of parts `(row, column, first, last channel)`."""
    height, width, channels, _ = shape
    length = block_length(height * width * channels)
    blocks: list[list[tuple[int, int, int, int]]] = [[]]
    room = length
    for row, column in np.ndindex(height, width):
        first = 0
        while first < channels:
            if room == 0:
                blocks.append([])
                room = length
            last = min(channels, first + room)
            blocks[-1].append((row, column, first, last))
            room -= last - first
            first = last
    return blocks


@register(BlockedConv2D)
def _of_blocked_convolution(call):
    """Norm and rounding; the map with the sizes of the weights has the norm of `sum_a |K_a|`.

    At each frequency its response `sum_a |K_a| exp(i a.w)` is at most that matrix, entry by entry.
    """
    layer = call.operation
    kernel, bias = built_weight(layer, "kernel"), optional_weight(layer, "bias")
    norm, how = plain_convolution_bound(kernel, layer.strides, layer.dilation)
    height, width, channels, filters = kernel.shape
    rounding = None
    if call.output_shape is not None and None not in call.output_shape[1:]:
        _, rows, columns, _ = call.output_shape
        taps = height * width
        sizes = spectral_norm_bound(np.abs(kernel).sum(axis=(0, 1))) * (1.0 + 2.0 * gamma(taps))
        # Products and sums within a block, sums over the blocks, and the bias.
        longest = max(sum(last - first for _, _, first, last in block) for block in layer.blocks)
        roundings = longest + len(layer.blocks) + 1
        rounding = product_rounding(sizes, (taps * channels, filters), bias, rows * columns, roundings, overlap=taps)
    return with_activation(LayerBound(norm, how, rounding), call)
