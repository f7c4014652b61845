"""A random sample of a data set."""

import numpy as np

from clustr_keras.types import Ints


def random_rows(total: int, count: int | None = None, seed: int = 0) -> Ints:
    """Draws places of a data set, without drawing one twice.

    Args:
        total: Integer, size of the data set.
        count: Integer, size of the sample; `None`, or any number from `total` on, for all.
        seed: Integer; equal seeds draw equal samples.

    Returns:
        int64, in ascending order.

    Raises:
        ValueError: If `count` < 1.

    Example:

    >>> random_rows(360, count=4)
    array([ 18, 166, 265, 313])
    """
    if count is not None and count < 1:
        raise ValueError(f"count must be at least 1; got {count}.")
    return np.sort(np.random.default_rng(seed).permutation(total)[:count])
