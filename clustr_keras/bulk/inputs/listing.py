"""Tells whether a listing of files is still the same."""

import hashlib
from collections.abc import Iterable

from clustr_keras.bulk.files import File


def listing_digest(files: Iterable[File]) -> str:
    """SHA-256 of the names, sizes and times of files, as hexadecimal digits."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.path}\0{file.size}\0{file.modified}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
