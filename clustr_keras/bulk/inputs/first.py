"""The first images of an input."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class First:
    """The first `examples` images of another input, for a trial.

    Args:
        of: The other input.
        examples: Integer.
    """

    of: Any
    examples: int

    @property
    def facts(self):
        """Those of the other input, and how many."""
        return self.of.facts | {"first": self.examples}

    def pieces(self, size):
        """Its pieces up to that image."""
        left = self.examples
        for count, place in self.of.pieces(size):
            if left <= 0:
                return
            yield min(count, left), place
            left -= count

    def read(self, place, count):
        """Reads as the other input does."""
        return self.of.read(place, count)
