"""What an output folder holds certificates of: pinned by the first run, and asked of every rerun."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from clustr_keras.bulk.shards import Shard
from clustr_keras.bulk.source import Source

MANIFEST = "_manifest.json"


def manifest_of(source: Source, shards: Sequence[Shard], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What pins a plan.

    Args:
        source: An input, see `clustr_keras.bulk.inputs`.
        shards: All its `Shard`s.
        settings: Dict of what else the rows depend on.

    Returns:
        Dict that JSON can hold.
    """
    plan = hashlib.sha256(repr([(shard.count, shard.place) for shard in shards]).encode()).hexdigest()
    described = {
        "input": source.facts,
        **settings,
        "images": sum(shard.count for shard in shards),
        "shards": len(shards),
        "plan": plan,
    }
    return json.loads(json.dumps(described))  # as it will be read again


def check_same(found: Mapping[str, Any], expected: Mapping[str, Any], folder: str) -> None:
    """Checks that the manifest of a folder is the one of this run.

    Raises:
        ValueError: If it is another one; the message says in what.
    """
    differing = [name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)]
    if differing:
        shown = "; ".join(f"{name}: {found.get(name)} there, {expected.get(name)} now" for name in differing)
        raise ValueError(
            f"--output {folder} belongs to another run, which differs in {shown}. Certificates would be mixed up: "
            "choose another --output, delete that folder, or run with what it was begun with."
        )
