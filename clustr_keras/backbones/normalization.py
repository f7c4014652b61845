"""Input normalization, inside the model: images stay in [0, 1] outside."""

from collections.abc import Sequence

import keras
import numpy as np

# The values that the field trains with, for CIFAR-100 too. The second line is the mean of the images' own standard
# deviations; that of all pixels would be (0.2470, 0.2435, 0.2616).
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2023, 0.1994, 0.2010)


def normalized(
    images: keras.KerasTensor, mean: float | Sequence[float] | None, std: float | Sequence[float] | None
) -> keras.KerasTensor:
    """Applies `(x - mean) / std` per channel, as a layer of the model; nothing if both are `None`.

    Args:
        images: Keras tensor `[B, H, W, C]`.
        mean: C floats, or one for all channels, or `None`.
        std: C positive floats, or one for all channels, or `None`.

    Returns:
        Keras tensor `[B, H, W, C]`.

    Raises:
        ValueError: If only one of the two is given, their lengths do not fit, or an entry of `std` is not positive.
    """
    if mean is None and std is None:
        return images
    if mean is None or std is None:
        raise ValueError(f"mean and std belong together: pass both or neither; got mean={mean}, std={std}.")
    channels = images.shape[-1]
    for name, values in (("mean", mean), ("std", std)):
        if np.shape(values) not in ((), (channels,)):
            raise ValueError(
                f"{name} must be one number or one for each of {channels} channels; got {values}. "
                "The constants of a color data set do not fit grayscale images."
            )
    if not np.min(std) > 0:
        raise ValueError(f"std must be positive; got {std}.")
    means, deviations = (np.broadcast_to(np.asarray(values, "float64"), channels) for values in (mean, std))
    # In float32 under any policy: bfloat16 cannot tell neighboring pixel values apart.
    layer = keras.layers.Normalization(
        mean=means.tolist(), variance=(deviations**2).tolist(), dtype="float32", name="normalization"
    )
    return layer(images)
