"""A file system of Beam's in memory: without folders, as GCS is, and renaming to no path that is there, as HDFS."""

import io
import time
from typing import ClassVar

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata, FileSystem


class MemoryFileSystem(FileSystem):
    """Holds `memory://` paths; Beam finds it by its scheme."""

    files: ClassVar[dict[str, bytes]] = {}
    times: ClassVar[dict[str, float]] = {}

    @classmethod
    def scheme(cls):
        return "memory"

    def join(self, basepath, *paths):
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path):
        return tuple(path.rsplit("/", 1))

    def mkdirs(self, path):
        raise NotImplementedError

    def has_dirs(self):
        return False

    def _list(self, dir_or_prefix):
        for path in sorted(self.files):
            if path.startswith(dir_or_prefix):
                yield self.metadata(path)

    def create(self, path, mime_type="", compression_type=CompressionTypes.AUTO):
        return _Writer(path)

    def open(self, path, mime_type="", compression_type=CompressionTypes.AUTO):
        return io.BytesIO(self.files[path])

    def copy(self, source_file_names, destination_file_names):
        raise NotImplementedError

    def rename(self, source_file_names, destination_file_names):
        for source, destination in zip(source_file_names, destination_file_names, strict=True):
            if destination in self.files:
                raise BeamIOError("Rename operation failed", {(source, destination): FileExistsError(destination)})
            self.files[destination] = self.files.pop(source)
            self.times[destination] = self.times.pop(source)

    def exists(self, path):
        return path in self.files

    def size(self, path):
        return len(self.files[path])

    def last_updated(self, path):
        return self.times.get(path, time.time())

    def checksum(self, path):
        return str(hash(self.files[path]))

    def metadata(self, path):
        self.times.setdefault(path, time.time())
        return FileMetadata(path, len(self.files[path]), self.times[path])

    def delete(self, paths):
        for path in paths:
            del self.files[path]


class _Writer(io.BytesIO):
    """A file that is there once it is closed."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def close(self):
        if not self.closed:
            MemoryFileSystem.files[self.path], MemoryFileSystem.times[self.path] = self.getvalue(), time.time()
        super().close()
