"""What tells one set of files from another."""

import hashlib
from collections.abc import Iterable


def sha256_of_files(files: Iterable[tuple[str, bytes]]) -> str:
    """SHA-256 of the names and contents of files, as hexadecimal digits.

    Args:
        files: `(name, content)` of each, in order.

    Example:

    >>> sha256_of_files([("saved_model.pb", path.read_bytes())])
    """
    digest = hashlib.sha256()
    for name, content in files:
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()
