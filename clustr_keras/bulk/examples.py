"""The images of a shard, as they were read."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Images with their ids, in order; either encoded, or as arrays.

    Args:
        ids: N strings.
        labels: N class ids, `None` where there is none.
        files: N PNG or JPEG files as bytes, or `None`.
        images: `[N, H, W, C]`, uint8 or floats, or `None`.
        errors: N reasons why an image could not be read (its file is empty then), `None` where it could.
    """

    ids: list
    labels: list
    files: list | None = None
    images: np.ndarray | None = None
    errors: list | None = None

    def __len__(self):
        return len(self.ids)

    @property
    def num_bytes(self):
        """Size of the images."""
        return self.images.nbytes if self.files is None else sum(map(len, self.files))
