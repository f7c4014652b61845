"""The output folder: a Parquet file for each finished shard, and never a part of one."""

import json
import uuid
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from clustr_keras.bulk.manifest import MANIFEST
from clustr_keras.bulk.shards import Shard
from clustr_keras.manifest import check_same

# Readers of a folder of Parquet pass over what begins with an underscore.
_TEMPORARY = "_temporary"


class OutputFolder:
    """Writes and finds the files of shards, through Beam's file systems.

    A file is written under a temporary name, in a folder beside, and renamed once it is complete.

    Args:
        path: Folder, or its URL.

    Example:

    >>> output = OutputFolder("runs/certificates")
    >>> output.begin(manifest)
    >>> output.write(shard, table)
    >>> output.finished(shards)
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def begin(self, manifest: dict[str, Any]) -> None:
        """Pins the manifest of a first run, or checks it in a rerun; removes what a killed run left unfinished.

        Raises:
            ValueError: If the folder belongs to another run.
        """
        target = FileSystems.join(self.path, MANIFEST)
        if FileSystems.exists(target):
            with FileSystems.open(target) as file:
                check_same(json.loads(file.read()), manifest, self.path, "Certificates")
        else:
            if self._names():
                raise ValueError(
                    f"--output {self.path} holds Parquet files and no {MANIFEST} to say of what. Name another folder."
                )
            self._write(MANIFEST, lambda file: file.write(json.dumps(manifest, indent=2).encode() + b"\n"))
        leftover = FileSystems.join(self.path, _TEMPORARY)
        if FileSystems.exists(leftover):
            FileSystems.delete([leftover])

    def finished(self, shards: Iterable[Shard]) -> list[Shard]:
        """Those shards whose file is there."""
        names = self._names()
        return [shard for shard in shards if shard.file_name in names]

    def write(self, shard: Shard, table: pa.Table) -> None:
        """Writes the file of a shard. One that is there already, from a worker that was taken for dead, is replaced."""
        self._write(shard.file_name, lambda file: pq.write_table(table, file))

    def _write(self, name, write):
        temporary = FileSystems.join(self.path, _TEMPORARY, f"{name}.{uuid.uuid4().hex}")
        with FileSystems.create(temporary) as file:
            write(file)
        FileSystems.rename([temporary], [FileSystems.join(self.path, name)])

    def _names(self):
        (found,) = FileSystems.match([FileSystems.join(self.path, "part-*.parquet")])
        return {FileSystems.split(metadata.path)[1] for metadata in found.metadata_list}
