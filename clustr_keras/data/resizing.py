"""Images of one size."""

from collections.abc import Sequence

import numpy as np

from clustr_keras.types import Tensor


def check_image_size(image_size: Sequence[int] | None) -> None:
    """Checks that a size is `(H, W)` in whole pixels, or `None`.

    Raises:
        ValueError: If it is neither.
    """
    if image_size is None:
        return
    if (
        not isinstance(image_size, tuple | list)
        or len(image_size) != 2
        or not all(isinstance(pixels, int | np.integer) and pixels > 0 for pixels in image_size)
    ):
        raise ValueError(f"image_size must be (height, width) in pixels; got {image_size!r}. Pass (32, 32), say.")


def resized(images: Tensor | np.ndarray, image_size: Sequence[int]) -> Tensor:
    """Resizes images by linear interpolation, averaged over what a pixel covers where they shrink.

    Args:
        images: `[H, W, C]` or `[B, H, W, C]`, uint8 or floats.
        image_size: `(H, W)`.

    Returns:
        A TensorFlow tensor of the same type, within the range of the images.

    Example:

    >>> resized(np.zeros((28, 28, 1), "uint8"), (32, 32)).shape
    (32, 32, 1)
    """
    import tensorflow as tf

    floats = tf.image.resize(images, image_size, antialias=True)
    if images.dtype == "uint8":
        return tf.cast(tf.round(floats), tf.uint8)
    # A mean of ones may be a hair above one.
    return tf.clip_by_value(floats, tf.reduce_min(images), tf.reduce_max(images))
