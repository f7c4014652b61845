"""Convolutional residual layer that is 1-Lipschitz by a proof for the sum."""

from typing import Any

import keras
from keras import ops

from clustr_keras.lipschitz.circular_conv import check_size, circular_convolution
from clustr_keras.lipschitz.layers import PACKAGE
from clustr_keras.lipschitz.residual import CondensedResidual, LipschitzResidual


class _Convolutional(keras.layers.Layer):
    """What a residual layer does with a convolution that wraps around in place of a matrix."""

    def __init__(self, units: int, kernel_size: int = 3, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        if not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be an odd positive integer; got {kernel_size!r}.")
        self.kernel_size = kernel_size

    def _kernel_shape(self, input_shape):
        if len(input_shape) != 4 or input_shape[-1] is None:
            raise ValueError(f"images [B, H, W, C] with C known are needed; got shape {tuple(input_shape)}.")
        check_size(input_shape, self.kernel_size)
        return (self.kernel_size, self.kernel_size, input_shape[-1], self.units)

    def _apply(self, inputs, kernel):
        # The adjoint, as the kernel is odd: mirrored, and its channels swapped.
        adjoint = ops.transpose(ops.flip(kernel, (0, 1)), (0, 1, 3, 2))
        active = ops.relu(circular_convolution(inputs, kernel) + self.bias)
        return inputs - 2.0 * circular_convolution(active, adjoint)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "kernel_size": self.kernel_size}


@keras.saving.register_keras_serializable(package=PACKAGE)
class LipschitzResidualConv2D(_Convolutional, LipschitzResidual):
    """Residual layer `x - 2 V relu(V^T x + b)`, where `V^T` is a convolution that wraps around, and V its adjoint.

    `LipschitzResidual` with a matrix that is a convolution: `V^T x = conv(x, K)` with `K_u = W_u T_u^(-1/2)` for each
    filter u of the stored kernel W. The matrix of all inner products of its shifted filters has the entries

        C_m[u, v] = sum_a W_u[a] . W_v[a + m],

    with m the shift between two of them, so `T_u = sum_v q_v / q_u sum_m |C_m[u, v]|` makes its diagonal dominant and
    the norm of V at most 1, for every value of the stored weights and every size of the images.

    Args:
        units: Positive integer, the number of ReLUs at each pixel.
        kernel_size: Odd positive integer, height and width of the kernel.
        kernel_initializer: Initializer of `raw_kernel`, the kernel W.
        bias_initializer: Initializer of `bias`.

    Input shape:
        `[B, H, W, C]`, with H and W at least `kernel_size - 1`.

    Output shape:
        As the input.

    Raises:
        ValueError: If `units` is not a positive integer, `kernel_size` not an odd one, or images are too small to wrap
            around.

    Example:

    >>> LipschitzResidualConv2D(32)(np.ones([1, 8, 8, 16])).shape
    (1, 8, 8, 16)

    Reference:
        Araujo et al., A Unified Algebraic Perspective on Lipschitz Neural Networks, ICLR 2023, Theorem 3.
    """

    def _inner_products(self, w):
        """Sums over all shifts of the sizes of the filters' inner products, `[units, units]`."""
        margin = self.kernel_size - 1
        filters = ops.pad(ops.transpose(w, (3, 0, 1, 2)), [(0, 0), (margin, margin), (margin, margin), (0, 0)])
        products = ops.conv(filters, w, padding="valid", data_format="channels_last")
        return ops.sum(ops.abs(products), axis=(1, 2))

    def _condensed_layer(self):
        return CondensedResidualConv2D(self.units, self.kernel_size, name=self.name, dtype=self.dtype_policy)


@keras.saving.register_keras_serializable(package=PACKAGE)
class CondensedResidualConv2D(_Convolutional, CondensedResidual):
    """What `LipschitzResidualConv2D` condenses to: its kernel is stored, and no longer computed.

    The bound of `CondensedResidual` holds, with the norm of the convolution for that of the matrix.

    Args:
        units: Positive integer, the number of ReLUs at each pixel.
        kernel_size: Odd positive integer, height and width of the kernel.

    Input shape:
        `[B, H, W, C]`, with H and W at least `kernel_size - 1`.

    Output shape:
        As the input.

    Raises:
        ValueError: If `units` is not a positive integer, `kernel_size` not an odd one, or images are too small to wrap
            around.

    Example:

    >>> plain = residual.condensed()
    """
