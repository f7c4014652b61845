"""Pooling that is 1-Lipschitz and keeps the norm."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from clustr_keras.lipschitz.layers import PACKAGE
from clustr_keras.types import Shape, Tensor


@keras.saving.register_keras_serializable(package=PACKAGE)
class L2NormPooling(keras.layers.Layer):
    """The l2 norm of each window, channel by channel: `sqrt(sum of x^2)` over windows that do not overlap.

    A norm is 1-Lipschitz, and no entry is in two windows, so the layer is 1-Lipschitz; its output has the norm of its
    input. At a window of zeros, where a norm has no gradient, the gradient is taken to be 0.

    Args:
        pool_size: Positive integer, or a pair of them, the size of a window.

    Input shape:
        `[B, H, W, C]` with H and W divisible by `pool_size`.

    Output shape:
        `[B, H / pool_size, W / pool_size, C]`.

    Raises:
        ValueError: If `pool_size` is not one or two positive integers, or does not divide H and W.

    Example:

    >>> L2NormPooling(2)(np.array([[3.0, 0.0], [0.0, 4.0]]).reshape([1, 2, 2, 1]))
    [[[[5.0]]]]

    Reference:
        Boureau, Ponce and LeCun, A theoretical analysis of feature pooling in visual recognition, ICML 2010.
    """

    def __init__(self, pool_size: int | Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        sizes = (pool_size, pool_size) if isinstance(pool_size, int) else pool_size
        is_pair = isinstance(sizes, list | tuple) and len(sizes) == 2
        if not is_pair or not all(isinstance(size, int) and size > 0 for size in sizes):
            raise ValueError(f"pool_size must be a positive integer or a pair of them; got {pool_size!r}.")
        self.pool_size = tuple(sizes)

    def build(self, input_shape: Shape) -> None:
        """Checks that the windows fit."""
        if len(input_shape) != 4 or any(
            size is not None and size % pool for size, pool in zip(input_shape[1:3], self.pool_size, strict=True)
        ):
            raise ValueError(
                f"L2NormPooling({self.pool_size}) needs images [B, H, W, C] with H and W divisible by "
                f"{self.pool_size}; got shape {tuple(input_shape)}. Pad or crop them first."
            )

    def call(self, inputs: Tensor) -> Tensor:
        """Computes the norms."""
        rows, columns = self.pool_size
        batch, height, width, channels = ops.shape(inputs)
        windows = ops.reshape(inputs, (batch, height // rows, rows, width // columns, columns, channels))
        # Divided by the largest entry, no square leaves the range of float16, and the root is one of at least 1.
        largest = ops.stop_gradient(ops.max(ops.abs(windows), axis=(2, 4), keepdims=True))
        is_positive = largest > 0.0
        squares = ops.square(windows / ops.where(is_positive, largest, ops.ones_like(largest)))
        squares = ops.sum(squares, axis=(2, 4), keepdims=True)
        norms = largest * ops.sqrt(ops.where(is_positive, squares, ops.ones_like(squares)))
        return ops.reshape(norms, (batch, height // rows, width // columns, channels))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Returns `[B, H / pool_size, W / pool_size, C]`."""
        batch, *before, channels = input_shape
        sizes = (None if size is None else size // pool for size, pool in zip(before, self.pool_size, strict=True))
        return (batch, *sizes, channels)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "pool_size": self.pool_size}
