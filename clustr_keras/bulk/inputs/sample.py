"""A random sample of an input."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from clustr_keras.bulk.examples import Examples
from clustr_keras.bulk.source import Source
from clustr_keras.data.sampling import random_rows


@dataclasses.dataclass(frozen=True)
class Sample:
    """A random sample of the images of another input, in their order there, with their ids.

    Runs of the other input that hold some of them are read as a whole.

    Args:
        of: The other input.
        examples: Integer, how many; any number from all of them on is all.
        seed: Integer; equal seeds draw equal samples.
    """

    of: Source
    examples: int
    seed: int = 0

    @property
    def facts(self) -> dict[str, Any]:
        """Those of the other input, how many, and the seed."""
        return self.of.facts | {"sample": self.examples, "seed": self.seed}

    def pieces(self, size: int) -> Iterator[tuple[int, Any]]:
        """Its part of each run of the other input, where it has one."""
        runs = list(self.of.pieces(size))
        ends = np.cumsum([count for count, _ in runs])
        rows = random_rows(int(ends[-1]) if runs else 0, self.examples, self.seed)
        for (count, place), end in zip(runs, ends, strict=True):
            first, last = np.searchsorted(rows, (end - count, end))
            if first < last:
                yield int(last - first), (count, place, tuple((rows[first:last] - (end - count)).tolist()))

    def read(self, place: Any, count: int) -> Examples:
        """Reads as the other input does, and keeps the images of the sample."""
        of_run, inner, rows = place
        return self.of.read(inner, of_run).take(rows[:count])
