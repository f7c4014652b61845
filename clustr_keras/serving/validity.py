"""Which images of a batch are valid, judged by themselves."""

import tensorflow as tf

from clustr_keras.types import Tensor


def without_invalid(images: Tensor) -> tuple[Tensor, Tensor]:
    """Puts zeros in the place of every image that is not finite or leaves [0, 1].

    Args:
        images: Floats `[B, H, W, C]`.

    Returns:
        Floats `[B, H, W, C]`, and whether each image was valid, bool `[B]`.
    """
    # A NaN fails both comparisons.
    is_valid = tf.reduce_all((images >= 0.0) & (images <= 1.0), axis=[1, 2, 3])
    return tf.where(is_valid[:, None, None, None], images, 0.0), is_valid
