"""Convolutional network that is 1-Lipschitz by construction."""

from collections.abc import Sequence

import keras

from clustr_keras.backbones.stages import check_dense, check_halved, dense_layers, preset
from clustr_keras.lipschitz.layers import MaxMin
from clustr_keras.lipschitz.orthogonal_conv import OrthogonalConv2D
from clustr_keras.lipschitz.space_to_depth import SpaceToDepth
from clustr_keras.types import Shape

_PRESETS = {
    8: {"channels": (32,), "dense": (128, 64)},
    28: {"channels": (16, 32), "dense": (256, 128)},
    32: {"channels": (32, 64), "dense": (256, 128)},
}


def lipschitz_convnet(
    input_shape: Shape,
    channels: Sequence[int] | None = None,
    dense: Sequence[int] | None = None,
    depth: int = 1,
    padding: str = "same",
    name: str = "lipschitz_convnet",
) -> keras.Model:
    """Stages of `SpaceToDepth`, `OrthogonalConv2D` and `MaxMin`, then dense layers onto the embedding.

    Each stage halves the resolution without a loss, then convolves with kernels of size 3. For images of 28 x 28 or 32
    x 32 two stages leave 7 x 7 or 8 x 8 pixels.

    Args:
        input_shape: Shape of one image, `(H, W, C)`, with H and W divisible by `2^len(channels)`.
        channels: Channels of each stage, even numbers. By default 32 for images of 8 x 8 pixels or more, 16, 32 from 28
            x 28 and 32, 64 from 32 x 32.
        dense: Output sizes of the dense layers at the end; the last is the dimension of the embedding, all others are
            even. By default 128, 64 for images of 8 x 8 pixels or more, and 256, 128 from 28 x 28.
        depth: Positive integer, number of convolutions in each stage.
        padding: Of the convolutions, `"same"` or `"circular"`, see `OrthogonalConv2D`.
        name: Name of the model.

    Returns:
        A functional `keras.Model` from `[B, H, W, C]` to embeddings `[B, dense[-1]]`, with Lipschitz constant at most 1
        in exact arithmetic.

    Raises:
        ValueError: If `channels` is empty or holds an odd number, `dense` is empty or holds one before its last,
            `depth` < 1, or H or W cannot be halved that often.

    Example:

    >>> backbone = lipschitz_convnet((28, 28, 1))
    >>> backbone.output_shape
    (None, 128)
    """
    sizes = preset(_PRESETS, input_shape)
    channels = sizes["channels"] if channels is None else channels
    dense = sizes["dense"] if dense is None else dense
    if not channels or any(count % 2 for count in channels):
        raise ValueError(f"channels must hold at least one number, and even ones only; got {tuple(channels)}.")
    if depth < 1:
        raise ValueError(f"depth must be at least 1; got {depth}.")
    check_dense("dense", dense)
    check_halved(input_shape, len(channels))
    images = keras.Input(input_shape, name="images")
    x = images
    for stage, count in enumerate(channels):
        x = SpaceToDepth(2, name=f"stage{stage}_space_to_depth")(x)
        for index in range(depth):
            x = OrthogonalConv2D(count, padding=padding, name=f"stage{stage}_orthogonal_conv{index}")(x)
            x = MaxMin(name=f"stage{stage}_max_min{index}")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    return keras.Model(images, dense_layers(x, dense), name=name)
