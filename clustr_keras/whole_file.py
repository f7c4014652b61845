"""Files that are written whole or not at all."""

import contextlib
import os
import pathlib
import uuid
from collections.abc import Iterator


@contextlib.contextmanager
def whole_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A name to write to, beside a file that it replaces at the end of the block; after an error it is removed.

    No reader sees half a file, and of several writers one wins.

    Args:
        path: `pathlib.Path` in a folder that exists.

    Yields:
        `pathlib.Path` with the suffix of `path`.

    Example:

    >>> with whole_file(output / "weights.npz") as file:
    ...     np.savez(file, *weights)
    """
    own = path.with_name(f".{uuid.uuid4().hex}.{path.name}")
    try:
        yield own
        os.replace(own, path)
    finally:
        own.unlink(missing_ok=True)
