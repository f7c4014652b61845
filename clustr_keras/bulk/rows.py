"""The table of certificates: a row for each image."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from clustr_keras.bulk.examples import Examples

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("label", pa.int64()),  # null where the input has none
        pa.field("class_id", pa.int64(), nullable=False),
        pa.field("class_name", pa.string(), nullable=False),
        pa.field("runner_up_class_id", pa.int64(), nullable=False),
        pa.field("nearest_cluster", pa.int64(), nullable=False),
        pa.field("certified_radius", pa.float32()),  # null for a model without a rounding analysis
        pa.field("radius", pa.float32()),  # in real arithmetic; null for a SavedModel, which does not give it
        pa.field("is_valid", pa.bool_(), nullable=False),
        pa.field("error", pa.string()),  # null for a valid image
    ]
)
SCHEMA_COLUMNS = tuple(SCHEMA.names)


def table_of(examples: Examples, answers: Mapping[str, Any], class_names: Sequence[str]) -> pa.Table:
    """Makes the rows of a shard.

    Those of an invalid image say so as a server does: class -1 without a name, no runner-up, radius 0.

    Args:
        examples: `Examples` of N images.
        answers: Dict of arrays `[N]`, see `DeployedModel.certify`.
        class_names: C strings.

    Returns:
        `pyarrow.Table` of `SCHEMA`.
    """
    is_valid = answers["is_valid"]

    def only_valid(name, otherwise):
        values = answers.get(name)
        return pa.nulls(len(examples)) if values is None else np.where(is_valid, values, otherwise)

    class_ids = only_valid("class_ids", -1)
    columns = {
        "id": examples.ids,
        "label": examples.labels,
        "class_id": class_ids,
        "class_name": [class_names[class_id] if class_id >= 0 else "" for class_id in class_ids],
        "runner_up_class_id": only_valid("runner_up_class_ids", -1),
        "nearest_cluster": only_valid("nearest_cluster", -1),
        "certified_radius": only_valid("certified_radius", np.float32(0)),
        "radius": only_valid("radius", np.float32(0)),
        "is_valid": is_valid,
        "error": answers["errors"],
    }
    arrays = [
        pa.array(columns[field.name], field.type)
        if not isinstance(columns[field.name], pa.Array)
        else columns[field.name].cast(field.type)
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)
