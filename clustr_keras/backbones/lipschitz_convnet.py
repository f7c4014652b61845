"""Convolutional network that is 1-Lipschitz by construction."""

import keras

from clustr_keras.backbones.stages import check_halved
from clustr_keras.lipschitz.layers import MaxMin, OrthogonalDense
from clustr_keras.lipschitz.orthogonal_conv import OrthogonalConv2D
from clustr_keras.lipschitz.space_to_depth import SpaceToDepth


def lipschitz_convnet(input_shape, channels=(32, 64), dim=128, name="lipschitz_convnet"):
    """Stages of `SpaceToDepth`, `OrthogonalConv2D` and `MaxMin`, then an `OrthogonalDense` onto the embedding.

    Each stage halves the resolution without a loss and convolves once, with a kernel of size 3. For images of 28 x 28
    or 32 x 32 two stages leave 7 x 7 or 8 x 8 pixels.

    Args:
        input_shape: Shape of one image, `(H, W, C)`, with H and W divisible by `2^len(channels)`.
        channels: Channels of each stage, even numbers.
        dim: Integer, dimension of the embedding.
        name: Name of the model.

    Returns:
        A functional `keras.Model` from `[B, H, W, C]` to embeddings `[B, dim]`, with Lipschitz constant at most 1 in
        exact arithmetic.

    Raises:
        ValueError: If `channels` is empty or holds an odd number, or H or W cannot be halved that often.

    Example:

    >>> backbone = lipschitz_convnet((28, 28, 1))
    >>> backbone.output_shape
    (None, 128)
    """
    if not channels or any(count % 2 for count in channels):
        raise ValueError(f"channels must hold at least one number, and even ones only; got {tuple(channels)}.")
    check_halved(input_shape, len(channels))
    images = keras.Input(input_shape, name="images")
    x = images
    for index, count in enumerate(channels):
        x = SpaceToDepth(2, name=f"space_to_depth_{index}")(x)
        x = OrthogonalConv2D(count, name=f"orthogonal_conv_{index}")(x)
        x = MaxMin(name=f"max_min_{index}")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = OrthogonalDense(dim, name="embedding")(x)
    return keras.Model(images, x, name=name)
