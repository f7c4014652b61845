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
