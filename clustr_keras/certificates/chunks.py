"""How much of a batch's geometry is held at a time."""

import math
from collections.abc import Sequence

# Hyperplanes of at most this many floats are held at a time.
CHUNK_FLOATS = 2**22


def is_small(shape: Sequence[int]) -> bool:
    """Whether a tensor of this shape may be made for each example of a batch at a time."""
    return math.prod(shape) <= CHUNK_FLOATS // 64
