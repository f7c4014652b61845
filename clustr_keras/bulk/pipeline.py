"""The pipeline: shards in, a Parquet file for each out."""

from collections.abc import Iterator

import apache_beam as beam
import pyarrow as pa
from apache_beam.ml.inference.base import RunInference

from clustr_keras.bulk.examples import Examples
from clustr_keras.bulk.handler import CertifyingHandler
from clustr_keras.bulk.output import OutputFolder
from clustr_keras.bulk.shards import Shard
from clustr_keras.bulk.source import Source


class ReadShard(beam.DoFn):
    """Reads the images of a shard."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def process(self, shard: Shard) -> Iterator[list[tuple[Shard, Examples]]]:
        """Yields a batch of one `(shard, examples)`."""
        yield [(shard, self.source.read(shard.place, shard.count))]


class WriteShard(beam.DoFn):
    """Writes the rows of a shard to its file."""

    def __init__(self, output: OutputFolder) -> None:
        self.output = output

    def process(self, certified: tuple[Shard, pa.Table]) -> None:
        """Writes one file, under its final name when it is complete."""
        shard, table = certified
        self.output.write(shard, table)


def certify_shards(
    pipeline: beam.Pipeline, shards: list[Shard], source: Source, handler: CertifyingHandler, output: OutputFolder
) -> beam.PCollection:
    """Adds to a pipeline: read, certify and write each shard.

    All after the reshuffle is one fused stage without a barrier: a worker finishes a shard before it begins the next.

    Args:
        pipeline: `beam.Pipeline`.
        shards: List of `Shard`.
        source: An input, see `clustr_keras.bulk.inputs`.
        handler: `CertifyingHandler`.
        output: `OutputFolder`.
    """
    return (
        pipeline
        | "Shards" >> beam.Create(shards, reshuffle=False)
        | "Spread over workers" >> beam.Reshuffle()
        | "Read" >> beam.ParDo(ReadShard(source))
        | "Certify" >> RunInference(handler)
        | "Write" >> beam.ParDo(WriteShard(output))
    )
