"""A folder of images."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from clustr_keras.bulk.examples import Examples
from clustr_keras.bulk.files import files_under, read_bytes, relative
from clustr_keras.bulk.inputs.listing import listing_digest
from clustr_keras.bulk.shards import ranges

_SUFFIXES = (".png", ".jpg", ".jpeg")


class Folder:
    """The PNG and JPEG files below a folder, by their names; ids are paths relative to it, `cats/17.png`.

    Args:
        path: The folder, listed now.

    Raises:
        ValueError: If it holds no such file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        files = files_under(path)
        listed = [dataclasses.replace(file, path=relative(file.path, path)) for file in files]
        listed = [file for file in listed if file.path.lower().endswith(_SUFFIXES)]
        if not listed:
            raise ValueError(
                f"--input {path} holds {len(files)} files, and none that ends in {', '.join(_SUFFIXES)}. Name a folder "
                "of images; TFRecords are named by a file or a pattern such as 'folder/*.tfrecord'."
            )
        self.facts = {"folder of": len(listed), "listing": listing_digest(listed)}
        self._names = [file.path for file in listed]

    def __getstate__(self) -> dict[str, Any]:
        # A worker needs the names of its shards only, which those bring along.
        return {"path": self.path, "facts": self.facts, "_names": None}

    def pieces(self, size: int) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Runs of files."""
        for start, count in ranges(len(self._names), size):
            yield count, tuple(self._names[start : start + count])

    def read(self, place: tuple[str, ...], count: int) -> Examples:
        """Files as they are; one that cannot be read is an error of its own."""
        names = list(place[:count])
        files: list[bytes] = []
        errors: list[str | None] = []
        for name in names:
            try:
                files.append(read_bytes(f"{self.path}/{name}"))
                errors.append(None)
            except OSError as error:
                files.append(b"")
                errors.append(f"cannot be read: {error.strerror or error}")
        return Examples(names, [None] * count, images=files, errors=errors)
