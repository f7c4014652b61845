"""The digits that come with scikit-learn."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from clustr_keras.bulk.examples import Examples
from clustr_keras.bulk.inputs.splits import chosen_splits
from clustr_keras.bulk.shards import ranges


@dataclasses.dataclass(frozen=True)
class Digits:
    """The bundled digits, as `load_digits` splits them; ids are `digits/test/17`.

    Args:
        split: Such as `test` or `train+test`; both by default.

    Raises:
        ValueError: If there is no such split.
    """

    split: str | None = None
    image_shape = (8, 8, 1)

    def __post_init__(self) -> None:
        chosen_splits(self.split, ("train", "test"), "digits")

    @property
    def facts(self) -> dict[str, Any]:
        """Name and splits."""
        return {"digits": chosen_splits(self.split, ("train", "test"), "digits")}

    def pieces(self, size: int) -> Iterator[tuple[int, tuple[str, int]]]:
        """Runs of each split."""
        splits = _splits()
        for split in self.facts["digits"]:
            for start, count in ranges(len(splits[split][1]), size):
                yield count, (split, start)

    def read(self, place: tuple[str, int], count: int) -> Examples:
        """Images as floats, with labels."""
        split, start = place
        images, labels = _splits()[split]
        ids = [f"digits/{split}/{index}" for index in range(start, start + count)]
        return Examples(ids, labels[start : start + count].tolist(), images=images[start : start + count])


def _splits():
    from clustr_keras.data import load_digits

    return dict(zip(("train", "test"), load_digits(), strict=True))
