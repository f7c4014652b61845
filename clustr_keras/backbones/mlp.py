"""Multilayer perceptron that is 1-Lipschitz by construction."""

import keras

from clustr_keras.lipschitz.layers import MaxMin, OrthogonalDense


def lipschitz_mlp(input_shape, widths=(256, 256, 128), name="lipschitz_mlp"):
    """A chain of `OrthogonalDense` layers with `MaxMin` between them, ending in the embedding.

    Args:
        input_shape: Shape of one image, for example `(28, 28, 1)`.
        widths: Output sizes of the dense layers; the last is the dimension of the embedding, all others are even.
        name: Name of the model.

    Returns:
        A functional `keras.Model` from `[B, H, W, C]` to embeddings `[B, widths[-1]]`, with Lipschitz constant at
        most 1 in exact arithmetic.

    Raises:
        ValueError: If `widths` is empty or a width before the last is odd.

    Example:

    >>> backbone = lipschitz_mlp((8, 8, 1), widths=(128, 128, 64))
    """
    if not widths or any(width % 2 for width in widths[:-1]):
        raise ValueError(f"widths must hold at least one number, and even ones before the last; got {tuple(widths)}.")
    inputs = keras.Input(input_shape, name="images")
    x = keras.layers.Flatten(name="flatten")(inputs)
    for index, width in enumerate(widths):
        x = OrthogonalDense(width, name=f"orthogonal_{index}")(x)
        if index < len(widths) - 1:
            x = MaxMin(name=f"max_min_{index}")(x)
    return keras.Model(inputs, x, name=name)
