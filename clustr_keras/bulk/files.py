"""Files of this machine or, where a path is a URL, of Beam's file systems (gs://, s3://, hdfs://)."""

import dataclasses
import glob
import os
import tempfile
from typing import BinaryIO

from clustr_keras.digest import sha256_of_files


@dataclasses.dataclass(frozen=True, order=True)
class File:
    """A file as a listing finds it.

    Args:
        path: String.
        size: Integer, bytes.
        modified: Float, seconds.
    """

    path: str
    size: int
    modified: float


def is_remote(path: str) -> bool:
    """Whether a path is a URL."""
    return "://" in path


def absolute(path: str | os.PathLike[str]) -> str:
    """The path that means the same in every worker: absolute, `~` written out; URLs as they are."""
    path = os.fspath(path)
    return path.rstrip("/") if is_remote(path) else os.path.abspath(os.path.expanduser(path))


def is_folder(path: str) -> bool:
    """Whether something lies under a path, at any depth."""
    return bool(_matching(f"{path}/**", at_most=1)) if is_remote(path) else os.path.isdir(path)


def files_under(folder: str) -> list[File]:
    """All files below a folder, ordered by path, with links that lead nowhere. Links to folders are not followed.

    Raises:
        OSError: If a folder cannot be listed.
    """
    if is_remote(folder):
        return _matching(f"{folder}/**")
    paths = [os.path.join(place, name) for place, _, names in os.walk(folder, onerror=_raise) for name in names]
    return sorted(_local(path) for path in paths if os.path.isfile(path) or not os.path.exists(path))


def files_matching(pattern: str) -> list[File]:
    """The file of a name, or those of a pattern with `*` and `?`, ordered by path."""
    if is_remote(pattern):
        return _matching(pattern)
    paths = [pattern] if os.path.isfile(pattern) else glob.glob(pattern)
    return sorted(map(_local, filter(os.path.isfile, paths)))


def open_file(path: str) -> BinaryIO:
    """Opens a file for reading bytes; what ends in `.gz` or `.bz2` is decompressed."""
    from apache_beam.io.filesystems import FileSystems

    return FileSystems.open(path)


def read_bytes(path: str) -> bytes:
    """The bytes of a file as they are."""
    if not is_remote(path):
        with open(path, "rb") as file:
            return file.read()
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        return file.read()


def parts_of(path: str) -> list[tuple[str, str]]:
    """A file, or all files of a folder, with names relative to it: `(name, path)` in order."""
    if is_folder(path):
        return [(relative(file.path, path), file.path) for file in files_under(path)]
    return [(os.path.basename(path), path)]


def relative(path: str, folder: str) -> str:
    """A path as seen from a folder above it, with `/`."""
    return path[len(folder) :].lstrip("/").replace(os.sep, "/")


def sha256_of(path: str) -> str:
    """SHA-256 of a file, or of the names and contents of all files in a folder, as hexadecimal digits."""
    return sha256_of_files((name, read_bytes(part)) for name, part in parts_of(path))


def local_copy(path: str) -> str:
    """The path itself where it is local; else that of a copy in a temporary folder."""
    if not is_remote(path):
        return path
    folder = os.path.join(tempfile.mkdtemp(prefix="clustr-model-"), os.path.basename(path))
    is_one_file = not is_folder(path)
    for name, part in parts_of(path):
        target = folder if is_one_file else os.path.join(folder, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            file.write(read_bytes(part))
    return folder


def _raise(error):
    raise error


def _local(path):
    try:
        status = os.stat(path)
    except OSError:  # a link that leads nowhere
        status = os.lstat(path)
    return File(path, status.st_size, status.st_mtime)


def _matching(pattern, at_most=None):
    from apache_beam.io.filesystems import FileSystems

    (found,) = FileSystems.match([pattern], [at_most])
    return sorted(File(m.path, m.size_in_bytes, m.last_updated_in_seconds or 0.0) for m in found.metadata_list)
