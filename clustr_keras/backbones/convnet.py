"""A small convolutional network for quick trials."""

from collections.abc import Sequence

import keras

from clustr_keras.backbones.normalization import normalized
from clustr_keras.types import Shape


def convnet(
    input_shape: Shape,
    width: int = 32,
    dim: int = 128,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    name: str = "convnet",
) -> keras.Model:
    """Three strided convolutions with batch normalization, then a dense layer onto the embedding.

    Sized for images like MNIST's on a CPU. The convolutions have `width`, `2 width` and `2 width` channels, each halves
    the size.

    Args:
        input_shape: Shape of one image, `(H, W, C)`.
        width: Integer, channels of the first convolution.
        dim: Integer, dimension of the embedding.
        mean: C floats, the mean of the pixels; the input is normalized inside the model. No normalization by default.
        std: C floats, the standard deviation of the pixels; given with `mean` or not at all.
        name: Name of the model.

    Returns:
        A functional `keras.Model` from images `[B, H, W, C]` in [0, 1] to embeddings `[B, dim]`, float32 under any
        dtype policy.

    Raises:
        ValueError: If `mean` or `std` do not fit each other or the channels of `input_shape`.

    Example:

    >>> backbone = convnet((28, 28, 1))
    >>> backbone.output_shape
    (None, 128)
    """
    images = keras.Input(input_shape, name="images")
    x = normalized(images, mean, std)
    for index, channels in enumerate((width, 2 * width, 2 * width)):
        x = keras.layers.Conv2D(channels, 3, 2, "same", use_bias=False, name=f"conv{index + 1}")(x)
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"norm{index + 1}")(x)
        x = keras.layers.ReLU(name=f"relu{index + 1}")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(dim, dtype="float32", name="embedding")(x)
    return keras.Model(images, x, name=name)
