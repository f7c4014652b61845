"""The output folder: a Parquet file for each finished shard, and never a part of one."""

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from clustr_keras.bulk.manifest import MANIFEST
from clustr_keras.bulk.shards import Shard
from clustr_keras.manifest import check_same

# Readers of a folder of Parquet pass over what begins with an underscore.
_TEMPORARY = "_temporary-"
# No file is being written for so long: its run was killed.
_DEAD_SECONDS = 3600.0


class OutputFolder:
    """Writes and finds the files of shards, through Beam's file systems.

    A file is written under a temporary name beside, which holds the id of the run, and renamed once it is complete.

    Args:
        path: Folder, or its URL.

    Raises:
        ValueError: If the path holds a sign of patterns, which Beam's file systems cannot be told to take as it is.

    Example:

    >>> output = OutputFolder("runs/certificates")
    >>> output.begin(manifest)
    >>> output.write(shard, table)
    >>> output.finished(shards)
    """

    def __init__(self, path: str) -> None:
        if any(sign in path for sign in "*?["):
            raise ValueError(f"--output must be a path without *, ? and [, which stand for patterns; got {path}.")
        self.path = path
        self.run = uuid.uuid4().hex

    def begin(self, manifest: dict[str, Any]) -> bool:
        """Pins the manifest of a first run, or checks it in a rerun; removes what killed runs left unfinished.

        A run beside this one, on the same input and model, is left alone: both write the same rows.

        Returns:
            Whether this is a first run.

        Raises:
            ValueError: If the folder belongs to another run.
        """
        target = FileSystems.join(self.path, MANIFEST)
        is_first = not FileSystems.exists(target)
        if is_first:
            if self._names("part-*.parquet"):
                raise ValueError(
                    f"--output {self.path} holds Parquet files and no {MANIFEST} to say of what. Name another folder."
                )
            self._write(MANIFEST, lambda file: file.write(json.dumps(manifest, indent=2).encode() + b"\n"))
        with FileSystems.open(target) as file:  # that of another run, if two began at once
            check_same(json.loads(file.read()), manifest, self.path, "Certificates")
        now = time.time()
        self._delete(name for name, written in self._names(f"{_TEMPORARY}*").items() if now - written > _DEAD_SECONDS)
        return is_first

    def withdraw(self) -> None:
        """Takes the manifest back, so that a run that could not finish any shard leaves the folder to others."""
        if not self._names("part-*.parquet"):
            self._delete([MANIFEST])

    def end(self) -> None:
        """Removes what workers of this run left unfinished, once it is over."""
        self._delete(self._names(f"{_TEMPORARY}{self.run}-*"))

    def finished(self, shards: Iterable[Shard]) -> list[Shard]:
        """Those shards whose file is there."""
        names = self._names("part-*.parquet")
        return [shard for shard in shards if shard.file_name in names]

    def write(self, shard: Shard, table: pa.Table) -> None:
        """Writes the file of a shard. One that is there already, of a worker that was taken for dead, is as good."""
        self._write(shard.file_name, lambda file: pq.write_table(table, file))

    def _write(self, name: str, write: Callable[[BinaryIO], Any]) -> None:
        temporary = f"{_TEMPORARY}{self.run}-{uuid.uuid4().hex}-{name}"
        source, target = FileSystems.join(self.path, temporary), FileSystems.join(self.path, name)
        with FileSystems.create(source) as file:
            write(file)
        try:
            FileSystems.rename([source], [target])
        except OSError:
            # Some file systems, such as HDFS, rename to nothing that is there. It is complete, and has the same rows.
            if not FileSystems.exists(target):
                raise
            self._delete([temporary])

    def _delete(self, names: Iterable[str]) -> None:
        paths = [FileSystems.join(self.path, name) for name in names]
        if paths:
            with contextlib.suppress(OSError):  # another run was faster
                FileSystems.delete(paths)

    def _names(self, pattern: str) -> dict[str, float]:
        """Names of files, each with the time at which it was written."""
        (found,) = FileSystems.match([FileSystems.join(self.path, pattern)])
        files = found.metadata_list
        return {FileSystems.split(file.path)[1]: file.last_updated_in_seconds or time.time() for file in files}
