"""Figures on disk."""

import json
import os
import pathlib
from typing import Any


def write_json(path: pathlib.Path, figures: dict[str, Any]) -> None:
    """Writes figures as JSON, atomically.

    Args:
        path: `pathlib.Path` in a folder that exists.
        figures: What JSON can hold.

    Example:

    >>> write_json(output / "results.json", evaluation.as_dict())
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(figures, indent=2) + "\n")
    os.replace(temporary, path)
