"""Shards: the contiguous parts of an input that are certified, and written, at a time."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any


@dataclasses.dataclass(frozen=True)
class Shard:
    """A part of the input.

    Args:
        index: Integer, position among all shards.
        shards: Integer, number of all shards.
        count: Integer, number of images.
        place: What the input needs to read these images.
    """

    index: int
    shards: int
    count: int
    place: Any

    @property
    def file_name(self) -> str:
        """Name of its Parquet file."""
        return f"part-{self.index:05d}-of-{self.shards:05d}.parquet"


def ranges(count: int, size: int) -> Iterator[tuple[int, int]]:
    """Splits `count` images into runs of `size`, the last one shorter: `(start, count)` of each.

    >>> list(ranges(5, 2))
    [(0, 2), (2, 2), (4, 1)]
    """
    return ((start, min(size, count - start)) for start in range(0, count, size))


def numbered(pieces: Iterable[tuple[int, Any]]) -> list[Shard]:
    """Shards of `(count, place)`, in their order."""
    pieces = list(pieces)
    return [Shard(index, len(pieces), count, place) for index, (count, place) in enumerate(pieces)]
