"""Figures as JSON, on disk and for other programs."""

import json
import math
import pathlib
from typing import Any

import numpy as np

from clustr_keras.whole_file import whole_file


def as_json(figures: Any, indent: int | None = 2) -> str:
    """Figures as valid JSON.

    Args:
        figures: Dicts, lists, strings, numbers, paths and NumPy arrays of them. What is not finite becomes `null`: JSON
            has no number for it.
        indent: Integer, spaces for each level; `None` for all of it on one line.

    Returns:
        String, without a newline at its end.

    Raises:
        TypeError: If there is something else among them.

    Example:

    >>> as_json({"distance": np.float32("inf"), "classes": np.arange(2)}, indent=None)
    '{"distance": null, "classes": [0, 1]}'
    """
    return json.dumps(_plain(figures), indent=indent, allow_nan=False)


def write_json(path: pathlib.Path, figures: Any) -> None:
    """Writes figures as JSON, atomically.

    Args:
        path: `pathlib.Path` in a folder that exists.
        figures: As for `as_json`.

    Example:

    >>> write_json(output / "results.json", evaluation.as_dict())
    """
    with whole_file(path) as file:
        file.write_text(as_json(figures) + "\n")


def _plain(value: Any) -> Any:
    """The same of types that JSON has."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, pathlib.PurePath):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
