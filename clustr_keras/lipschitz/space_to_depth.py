"""Isometries that trade resolution for channels and back."""

from typing import Any

import keras
from keras import ops

from clustr_keras.integers import checked_integer
from clustr_keras.lipschitz.layers import PACKAGE
from clustr_keras.types import Shape, Tensor


@keras.saving.register_keras_serializable(package=PACKAGE)
class SpaceToDepth(keras.layers.Layer):
    """Moves the pixels of each square block into the channels: `[H, W, C]` becomes `[H / n, W / n, n^2 C]`.

    A permutation of the entries, so an isometry: it halves the resolution (for n = 2) without a loss, where a stride
    or a pooling would drop or mix entries. Within a block the pixels come row by row.

    Args:
        block: Integer n, at least 1, the side of a block.

    Input shape:
        `[B, H, W, C]` with H and W divisible by `block`.

    Output shape:
        `[B, H / block, W / block, block^2 C]`.

    Raises:
        ValueError: If `block` is not a positive integer, or does not divide H and W.

    Example:

    >>> SpaceToDepth(2)(np.zeros([1, 28, 28, 1])).shape
    (1, 14, 14, 4)
    """

    def __init__(self, block: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.block = checked_integer("block", block)

    def build(self, input_shape: Shape) -> None:
        """Checks that the blocks fit."""
        if len(input_shape) != 4 or any(size is not None and size % self.block for size in input_shape[1:3]):
            raise ValueError(
                f"SpaceToDepth({self.block}) needs images [B, H, W, C] with H and W divisible by {self.block}; got "
                f"shape {tuple(input_shape)}. Pad or crop them first."
            )

    def call(self, inputs: Tensor) -> Tensor:
        """Moves the entries."""
        n = self.block
        batch, height, width, channels = ops.shape(inputs)
        blocks = ops.reshape(inputs, (batch, height // n, n, width // n, n, channels))
        blocks = ops.transpose(blocks, (0, 1, 3, 2, 4, 5))
        return ops.reshape(blocks, (batch, height // n, width // n, n * n * channels))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Returns `[B, H / block, W / block, block^2 C]`."""
        batch, height, width, channels = input_shape
        height, width = (None if size is None else size // self.block for size in (height, width))
        return (batch, height, width, None if channels is None else self.block**2 * channels)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "block": self.block}


@keras.saving.register_keras_serializable(package=PACKAGE)
class DepthToSpace(keras.layers.Layer):
    """Spreads the channels over square blocks of pixels: `[H, W, C]` becomes `[n H, n W, C / n^2]`.

    The inverse of `SpaceToDepth` with the same `block`, and like it an isometry.

    Args:
        block: Integer n, at least 1, the side of a block.

    Input shape:
        `[B, H, W, C]` with C divisible by `block^2`.

    Output shape:
        `[B, block H, block W, C / block^2]`.

    Raises:
        ValueError: If `block` is not a positive integer, or its square does not divide C.

    Example:

    >>> DepthToSpace(2)(np.zeros([1, 14, 14, 4])).shape
    (1, 28, 28, 1)
    """

    def __init__(self, block: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.block = checked_integer("block", block)

    def build(self, input_shape: Shape) -> None:
        """Checks that the channels make up blocks."""
        if len(input_shape) != 4 or input_shape[-1] is None or input_shape[-1] % self.block**2:
            raise ValueError(
                f"DepthToSpace({self.block}) needs images [B, H, W, C] with C divisible by {self.block**2}; got shape "
                f"{tuple(input_shape)}. Give the layer before it such a number of channels."
            )

    def call(self, inputs: Tensor) -> Tensor:
        """Moves the entries."""
        n = self.block
        batch, height, width, channels = ops.shape(inputs)
        blocks = ops.reshape(inputs, (batch, height, width, n, n, channels // n**2))
        blocks = ops.transpose(blocks, (0, 1, 3, 2, 4, 5))
        return ops.reshape(blocks, (batch, n * height, n * width, channels // n**2))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Returns `[B, block H, block W, C / block^2]`."""
        batch, height, width, channels = input_shape
        height, width = (None if size is None else size * self.block for size in (height, width))
        return (batch, height, width, None if channels is None else channels // self.block**2)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "block": self.block}
