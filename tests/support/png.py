"""Gray images as the bytes of a PNG file."""

import io

import numpy as np
from PIL import Image


def as_bytes(images):
    """Floats in [0, 1] in 8 bits."""
    return np.uint8(np.round(images * 255))


def png(image):
    """A PNG file of floats `[H, W, 1]` in [0, 1]."""
    file = io.BytesIO()
    Image.fromarray(as_bytes(image[..., 0])).save(file, "PNG")
    return file.getvalue()
