"""What every kind of input can do."""

from collections.abc import Iterator
from typing import Any, Protocol

from clustr_keras.bulk.examples import Examples


class Source(Protocol):
    """An input of `clustr certify`: small, picklable, and the same in every run."""

    @property
    def facts(self) -> dict[str, Any]:
        """What tells it from another one, for the manifest."""

    def pieces(self, size: int) -> Iterator[tuple[int, Any]]:
        """`(count, place)` of runs of at most `size` images, the same ones in every run."""

    def read(self, place: Any, count: int) -> Examples:
        """The images of one of them, in a worker."""
