"""Pixels as stored, made into what a model takes."""

import numpy as np

from clustr_keras.data.checks import check_images
from clustr_keras.types import ArrayLike, Floats, Tensor


def as_floats(images: Tensor | ArrayLike) -> Floats:
    """Makes floats in [0, 1] of images as they are stored.

    `x / 255` in float32 for 8-bit images. Floats are checked and passed on.

    Args:
        images: uint8 of any shape, or floats `[B, H, W, C]` in [0, 1].

    Returns:
        float32 of the same shape.

    Raises:
        ValueError: If the images are of another type, or floats that are not finite or leave [0, 1].

    Example:

    >>> as_floats(np.array([0, 51, 255], "uint8"))
    [0.0, 0.2, 1.0]
    """
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return np.divide(images, np.float32(255), dtype="float32")
    check_images(images)
    return images.astype("float32", copy=False)
