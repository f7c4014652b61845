"""A backbone that takes an image and its mirror image for the same."""

import keras
from keras import ops


def mirror_averaged(backbone: keras.Model, name: str | None = None) -> keras.Model:
    """The mean of the embeddings of an image and its mirror image, `(f(x) + f(flip x)) / 2`.

    Mirroring changes no distance, and a mean of two maps stretches no more than they do: where f is L-Lipschitz, so is
    this. It answers an image and its mirror image alike. What it costs is a second evaluation; what it brings to a
    network that was trained on both, as `CropAndFlip` has it, is certified accuracy.

    Args:
        backbone: `keras.Model` from `[B, H, W, C]` to embeddings `[B, D]`. Its layers are shared, not copied.
        name: Name of the model; that of the backbone and `_mirror_averaged` by default.

    Returns:
        A functional `keras.Model` of the same shapes.

    Raises:
        ValueError: If the backbone does not map images to embeddings.

    Example:

    >>> averaged = mirror_averaged(lipschitz_convnet((32, 32, 3)))

    Of a trained classifier `training.with_mirror_averages` makes one on such a backbone.
    """
    if len(backbone.input_shape) != 4 or len(backbone.output_shape) != 2:
        raise ValueError(
            "a backbone maps images [B, H, W, C] to embeddings [B, D]; "
            f"{backbone.name!r} maps {backbone.input_shape} to {backbone.output_shape}."
        )
    images = keras.Input(backbone.input_shape[1:], name="images")
    both = [backbone(images), backbone(ops.flip(images, axis=2))]
    return keras.Model(images, keras.layers.Average(name="mean")(both), name=name or f"{backbone.name}_mirror_averaged")
