"""The images of a shard, as they were read."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Images with their ids, in order.

    Args:
        ids: N strings.
        labels: N class ids, `None` where there is none.
        images: `[N, H, W, C]`, uint8 or floats; or N PNG or JPEG files as bytes.
        errors: N reasons why an image could not be read (its file is empty then), `None` where it could.
    """

    ids: list[str]
    labels: list[int | None]
    images: np.ndarray | list[bytes]
    errors: list[str | None] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int]) -> "Examples":
        """Those at some places, integers, alone."""
        errors = self.errors and [self.errors[row] for row in rows]
        images = [self.images[row] for row in rows] if isinstance(self.images, list) else self.images[list(rows)]
        return Examples([self.ids[row] for row in rows], [self.labels[row] for row in rows], images, errors)

    @property
    def num_bytes(self) -> int:
        """Size of the images."""
        return sum(map(len, self.images)) if isinstance(self.images, list) else self.images.nbytes
