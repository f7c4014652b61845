"""Residual network that is 1-Lipschitz by construction."""

from collections.abc import Sequence

import keras

from clustr_keras.backbones.stages import check_dense, check_halved, dense_layers, preset
from clustr_keras.lipschitz.orthogonal_conv import OrthogonalConv2D
from clustr_keras.lipschitz.residual_conv import LipschitzResidualConv2D
from clustr_keras.lipschitz.space_to_depth import SpaceToDepth
from clustr_keras.types import Shape

_PRESETS = {
    8: {"width": 32, "depths": (2,), "dense": (128, 64)},
    28: {"width": 16, "depths": (2, 2), "dense": (256, 128)},
    32: {"width": 32, "depths": (2, 2), "dense": (256, 128)},
}


def lipschitz_resnet(
    input_shape: Shape,
    width: int | None = None,
    depths: Sequence[int] | None = None,
    dense: Sequence[int] | None = None,
    name: str = "lipschitz_resnet",
) -> keras.Model:
    """Stages of `SpaceToDepth`, `OrthogonalConv2D` and residual blocks, then dense layers onto the embedding.

    Stage i halves the resolution without a loss, mixes to `width * 2^i` channels, and goes through `depths[i]` layers
    `LipschitzResidualConv2D` with as many ReLUs per pixel as channels. For images of 28 x 28 or 32 x 32 two stages
    leave 7 x 7 or 8 x 8 pixels. Images wrap around in all convolutions.

    Args:
        input_shape: Shape of one image, `(H, W, C)`, with H and W divisible by `2^len(depths)`.
        width: Positive integer, channels of the first stage. By default 32, and 16 for images from 28 x 28 to below 32
            x 32.
        depths: Number of residual layers in each stage. By default 2 for images of 8 x 8 pixels or more, and 2, 2 from
            28 x 28.
        dense: Output sizes of the dense layers at the end, with `MaxMin` between them; the last is the dimension of the
            embedding, all others are even. By default 128, 64, and 256, 128 from 28 x 28.
        name: Name of the model.

    Returns:
        A functional `keras.Model` from `[B, H, W, C]` to embeddings `[B, dense[-1]]`, with Lipschitz constant at most 1
        in exact arithmetic.

    Raises:
        ValueError: If `depths` or `dense` is empty, a size in `dense` before the last is odd, or H or W cannot be
            halved that often.

    Example:

    >>> backbone = lipschitz_resnet((32, 32, 3), width=64, depths=(4, 4))
    >>> backbone.output_shape
    (None, 128)

    Reference:
        Hu et al., Unlocking Deterministic Robustness Certification on ImageNet, NeurIPS 2023, for residual networks
        under a Lipschitz bound.
    """
    sizes = preset(_PRESETS, input_shape)
    width = sizes["width"] if width is None else width
    depths = sizes["depths"] if depths is None else depths
    dense = sizes["dense"] if dense is None else dense
    if not depths:
        raise ValueError(f"depths must hold at least one number; got {tuple(depths)}.")
    check_dense("dense", dense)
    check_halved(input_shape, len(depths))
    images = keras.Input(input_shape, name="images")
    x = images
    for stage, depth in enumerate(depths):
        channels = width * 2**stage
        x = SpaceToDepth(2, name=f"stage{stage}_space_to_depth")(x)
        x = OrthogonalConv2D(channels, 1, name=f"stage{stage}_orthogonal_conv")(x)
        for block in range(depth):
            x = LipschitzResidualConv2D(channels, name=f"stage{stage}_residual{block}")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    return keras.Model(images, dense_layers(x, dense), name=name)
