"""The images of a shard, as they were read."""

import dataclasses

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

    @property
    def num_bytes(self) -> int:
        """Size of the images."""
        return sum(map(len, self.images)) if isinstance(self.images, list) else self.images.nbytes
