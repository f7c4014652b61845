"""Batches of examples in a random order, which all devices of a training can share."""

from collections.abc import Callable

import numpy as np

from clustr_keras.backend import can_share
from clustr_keras.data import ImageBatches, Split


def plain_batches(
    split: Split,
    batch_size: int,
    augmentation: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
    seed: int = 0,
) -> ImageBatches:
    """Makes batches for `fit`; a last one too small for every replica to get an example is left out.

    Args:
        split, batch_size, augmentation, seed: As for `ImageBatches`.

    Returns:
        `ImageBatches`.

    Raises:
        ValueError: As `ImageBatches`.
    """
    rest = len(split) % batch_size
    return ImageBatches(split, batch_size, augmentation, seed=seed, drop_remainder=not can_share(rest))
