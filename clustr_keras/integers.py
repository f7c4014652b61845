"""A check of integer arguments."""

import numpy as np


def checked_integer(name: str, value: int, least: int = 1) -> int:
    """An integer argument, as a Python integer.

    Args:
        name: What the error calls it.
        value: Integer, of Python or NumPy.
        least: Integer, the smallest that will do.

    Raises:
        ValueError: If it is no integer, a boolean, or smaller than `least`.

    Example:

    >>> checked_integer("units", 64)
    64
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}; got {value!r}.")
    return int(value)
