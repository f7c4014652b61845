"""A folder of images."""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

from clustr_keras.bulk.examples import Examples
from clustr_keras.bulk.files import files_under, read_bytes, relative
from clustr_keras.bulk.inputs.listing import listing_digest
from clustr_keras.bulk.shards import ranges

_SUFFIXES = (".png", ".jpg", ".jpeg")


class Folder:
    """The PNG and JPEG files below a folder, by their names; ids are paths relative to it, `cats/17.png`.

    A byte of a name that is no UTF-8 stands as `\\xe9` in the id.

    Args:
        path: The folder, listed now.

    Raises:
        ValueError: If it holds no such file, or two whose ids would be one.
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
        self._names = [_picklable(file.path) for file in listed]
        if len(set(map(_id_of, self._names))) < len(listed):
            raise ValueError(f"--input {path} holds a file whose name spells out the bytes of another one. Rename it.")

    def __getstate__(self) -> dict[str, Any]:
        # A worker needs the names of its shards only, which those bring along.
        return {"path": self.path, "facts": self.facts, "_names": None}

    def pieces(self, size: int) -> Iterator[tuple[int, tuple[str | bytes, ...]]]:
        """Runs of files."""
        for start, count in ranges(len(self._names), size):
            yield count, tuple(self._names[start : start + count])

    def read(self, place: tuple[str | bytes, ...], count: int) -> Examples:
        """Files as they are; one that cannot be read is an error of its own."""
        names = list(place[:count])
        files: list[bytes] = []
        errors: list[str | None] = []
        for name in names:
            try:
                files.append(read_bytes(f"{self.path}/{os.fsdecode(name)}"))
                errors.append(None)
            except OSError as error:
                files.append(b"")
                errors.append(f"cannot be read: {error.strerror or error}")
        return Examples(list(map(_id_of, names)), [None] * count, images=files, errors=errors)


def _picklable(name: str) -> str | bytes:
    """A name as Beam can encode it: its bytes, where they are no UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name)
    return name


def _id_of(name: str | bytes) -> str:
    return name if isinstance(name, str) else name.decode(errors="backslashreplace")
