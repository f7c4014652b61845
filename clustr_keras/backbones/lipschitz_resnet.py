"""Residual network that is 1-Lipschitz by construction."""

import keras

from clustr_keras.backbones.stages import check_halved
from clustr_keras.lipschitz.layers import MaxMin, OrthogonalDense
from clustr_keras.lipschitz.orthogonal_conv import OrthogonalConv2D
from clustr_keras.lipschitz.residual_conv import LipschitzResidualConv2D
from clustr_keras.lipschitz.space_to_depth import SpaceToDepth


def lipschitz_resnet(input_shape, width=32, depths=(2, 2), dense=(256, 128), name="lipschitz_resnet"):
    """Stages of `SpaceToDepth`, `OrthogonalConv2D` and residual blocks, then dense layers onto the embedding.

    Stage i halves the resolution without a loss, mixes to `width * 2^i` channels, and goes through `depths[i]` layers
    `LipschitzResidualConv2D` with as many ReLUs per pixel as channels. For images of 28 x 28 or 32 x 32 two stages
    leave 7 x 7 or 8 x 8 pixels. Images wrap around in all convolutions.

    Args:
        input_shape: Shape of one image, `(H, W, C)`, with H and W divisible by `2^len(depths)`.
        width: Positive integer, channels of the first stage.
        depths: Number of residual layers in each stage.
        dense: Output sizes of the dense layers at the end, with `MaxMin` between them; the last is the dimension of the
            embedding, all others are even.
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
    if not depths:
        raise ValueError(f"depths must hold at least one number; got {tuple(depths)}.")
    if not dense or any(size % 2 for size in dense[:-1]):
        raise ValueError(f"dense must hold at least one number, and even ones before the last; got {tuple(dense)}.")
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
    for index, size in enumerate(dense):
        if index:
            x = MaxMin(name=f"max_min_{index}")(x)
        x = OrthogonalDense(size, name=f"orthogonal_{index}")(x)
    return keras.Model(images, x, name=name)
