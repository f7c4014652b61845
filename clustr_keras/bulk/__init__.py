"""Certifies many images with an Apache Beam pipeline that can be restarted: images in, Parquet out.

A deterministic plan splits the input into shards with stable ids (`inputs`). Each shard is read, certified and written
as one Parquet file under its final name at once (`output`), so that a rerun does what is missing and nothing else, and
a manifest refuses a rerun that would mix two inputs or models (`manifest`).
"""

from typing import Any

from clustr_keras.bulk.rows import SCHEMA_COLUMNS

__all__ = ["SCHEMA_COLUMNS", "certify_in_bulk"]


def __getattr__(name: str) -> Any:
    # Only the run needs Apache Beam, which has an environment of its own.
    if name == "certify_in_bulk":
        from clustr_keras.bulk.run import certify_in_bulk

        return certify_in_bulk
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
