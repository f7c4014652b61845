"""What the Lipschitz backbones share: sizes for a resolution, dense layers at the end, checks of both."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from clustr_keras.lipschitz.layers import MaxMin, OrthogonalDense
from clustr_keras.types import Shape


def preset(presets: Mapping[int, Any], input_shape: Shape) -> Any:
    """The sizes for an image: those of the largest resolution that it reaches, or else of the smallest.

    Args:
        presets: Dict, resolution in pixels -> sizes.
        input_shape: Shape of one image, `(H, W, C)`.

    Returns:
        A value of `presets`. An unknown height or width counts as the largest.

    Example:

    >>> preset({8: "small", 28: "large"}, (16, 16, 1))
    'small'
    """
    resolution = min((size for size in input_shape[:2] if size is not None), default=max(presets))
    return presets[max((known for known in presets if known <= resolution), default=min(presets))]


def check_halved(input_shape: Shape, stages: int) -> None:
    """Checks that images can be halved once in each stage.

    Args:
        input_shape: Shape of one image.
        stages: Integer, the number of stages.

    Raises:
        ValueError: If the shape is not `(H, W, C)` with H and W divisible by `2^stages`.

    Example:

    >>> check_halved((28, 28, 1), stages=2)
    """
    if len(input_shape) != 3 or any(size is None or size % 2**stages for size in input_shape[:2]):
        raise ValueError(
            f"input_shape must be (H, W, C) with H and W divisible by {2**stages}, for {stages} stages "
            f"that halve them; got {tuple(input_shape)}. Use fewer stages, or pad or resize the images."
        )


def check_dense(name: str, sizes: Sequence[int]) -> None:
    """Checks the output sizes of dense layers with `MaxMin` between them.

    Args:
        name: Name of the argument that holds them.
        sizes: Integers.

    Raises:
        ValueError: If there is none, or one before the last is odd.

    Example:

    >>> check_dense("widths", (256, 128))
    """
    if not sizes or any(size % 2 for size in sizes[:-1]):
        raise ValueError(f"{name} must hold at least one number, and even ones before the last; got {tuple(sizes)}.")


def dense_layers(x: keras.KerasTensor, sizes: Sequence[int]) -> keras.KerasTensor:
    """`OrthogonalDense` layers with `MaxMin` between them.

    Args:
        x: Keras tensor `[B, n]`.
        sizes: Output sizes of the layers.

    Returns:
        Keras tensor `[B, sizes[-1]]`.

    Example:

    >>> dense_layers(keras.Input((64,)), (32, 16)).shape
    (None, 16)
    """
    for index, size in enumerate(sizes):
        if index:
            x = MaxMin(name=f"max_min_{index - 1}")(x)
        x = OrthogonalDense(size, name=f"orthogonal_{index}")(x)
    return x
