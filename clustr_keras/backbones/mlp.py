"""Multilayer perceptron that is 1-Lipschitz by construction."""

from collections.abc import Sequence

import keras

from clustr_keras.backbones.stages import check_dense, dense_layers, preset
from clustr_keras.types import Shape

_PRESETS = {8: (256, 256, 64), 28: (512, 512, 256, 128), 32: (1024, 512, 256, 128)}


def lipschitz_mlp(input_shape: Shape, widths: Sequence[int] | None = None, name: str = "lipschitz_mlp") -> keras.Model:
    """A chain of `OrthogonalDense` layers with `MaxMin` between them, ending in the embedding.

    Args:
        input_shape: Shape of one image, for example `(28, 28, 1)`.
        widths: Output sizes of the dense layers; the last is the dimension of the embedding, all others are even. By
            default 256, 256, 64 for images of 8 x 8 pixels or more, 512, 512, 256, 128 from 28 x 28 and 1024, 512, 256,
            128 from 32 x 32.
        name: Name of the model.

    Returns:
        A functional `keras.Model` from `[B, H, W, C]` to embeddings `[B, widths[-1]]`, with Lipschitz constant at
        most 1 in exact arithmetic.

    Raises:
        ValueError: If `widths` is empty or a width before the last is odd.

    Example:

    >>> backbone = lipschitz_mlp((8, 8, 1), widths=(128, 128, 64))
    """
    widths = preset(_PRESETS, input_shape) if widths is None else widths
    check_dense("widths", widths)
    inputs = keras.Input(input_shape, name="images")
    x = keras.layers.Flatten(name="flatten")(inputs)
    return keras.Model(inputs, dense_layers(x, widths), name=name)
