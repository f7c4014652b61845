"""The versions of a model directory."""

import os
import pathlib


def version_number(name: str) -> int | None:
    """The version that a folder of this name holds: ASCII digits, below 2^63. `None` for any other name.

    Example:

    >>> version_number("3"), version_number("3.partial")
    (3, None)
    """
    return int(name) if name.isascii() and name.isdecimal() and int(name) < 2**63 else None


def versions(directory: str | os.PathLike[str]) -> list[int]:
    """Version numbers of the folders in a model directory, ascending."""
    numbers = (version_number(entry.name) for entry in pathlib.Path(directory).iterdir())
    return sorted(number for number in numbers if number is not None)
