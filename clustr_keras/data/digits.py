"""The 1,797 real handwritten digits that come with scikit-learn."""

import math

import numpy as np

from clustr_keras.types import Floats, Ints

CLASS_NAMES = tuple("0123456789")


def load_digits(test_share: float = 0.2, seed: int = 0) -> tuple[tuple[Floats, Ints], tuple[Floats, Ints]]:
    """Loads scikit-learn's bundled digits, split into training and test images.

    Args:
        test_share: Float in (0, 1), share of the images kept for the test.
        seed: Integer, of the shuffling before the split.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: images float32 `[N, 8, 8, 1]` in [0, 1], labels int64 `[N]`.

    Raises:
        ValueError: If `test_share` leaves no image on one side.

    Example:

    >>> (x_train, y_train), (x_test, y_test) = load_digits()
    >>> x_train.shape, x_test.shape
    ((1437, 8, 8, 1), (360, 8, 8, 1))

    Reference:
        Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
    """
    from sklearn import datasets

    digits = datasets.load_digits()
    images = (digits.images / 16.0).astype("float32")[..., None]
    labels = digits.target.astype("int64")
    num_test = math.ceil(test_share * len(images))
    if not 0 < num_test < len(images):
        raise ValueError(f"test_share must leave images on both sides; got {test_share}.")
    order = np.random.default_rng(seed).permutation(len(images))
    train, test = order[:-num_test], order[-num_test:]
    return (images[train], labels[train]), (images[test], labels[test])
