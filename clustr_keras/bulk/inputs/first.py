"""The first images of an input."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from clustr_keras.bulk.examples import Examples
from clustr_keras.bulk.source import Source


@dataclasses.dataclass(frozen=True)
class First:
    """The first `examples` images of another input, for a trial.

    Args:
        of: The other input.
        examples: Integer.
    """

    of: Source
    examples: int

    @property
    def facts(self) -> dict[str, Any]:
        """Those of the other input, and how many."""
        return self.of.facts | {"first": self.examples}

    def pieces(self, size: int) -> Iterator[tuple[int, Any]]:
        """Its pieces up to that image."""
        left = self.examples
        for count, place in self.of.pieces(size):
            if left <= 0:
                return
            yield min(count, left), place
            left -= count

    def read(self, place: Any, count: int) -> Examples:
        """Reads as the other input does."""
        return self.of.read(place, count)
