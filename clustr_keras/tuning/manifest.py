"""What the trials in a folder depend on, so that no two searches are mixed there."""

import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

import keras_tuner
import numpy as np

from clustr_keras.data import Split
from clustr_keras.manifest import check_same
from clustr_keras.tuning.hypermodel import ClustrHyperModel
from clustr_keras.whole_file import whole_file

MANIFEST = "manifest.json"


def manifest_of(
    tuner: str, hypermodel: ClustrHyperModel, objective: keras_tuner.Objective, epochs: int, seed: int
) -> dict[str, Any]:
    """What pins a search; the number of trials does not.

    Args:
        tuner: Name, see `make_tuner`.
        hypermodel: `ClustrHyperModel`.
        objective: As `make_objective` gives it.
        epochs: Integer, of a trial.
        seed: Integer.

    Returns:
        A flat dict, as JSON will give it back.
    """
    search = {
        "tuner": tuner,
        "objective": objective.name,
        "epochs": epochs,
        "seed": seed,
        "data": hypermodel.whole.name,
        "images_sha256": _sha256_of(hypermodel.whole.train),
        "validation_images": len(hypermodel.dataset.test),
        "hypermodel": type(hypermodel).__qualname__,
        "radius": hypermodel.radius,
        "eps": hypermodel.eps,
        **_described("recipe", hypermodel.recipe),
    }
    return json.loads(json.dumps(search))


def pin(folder: str | os.PathLike[str], manifest: dict[str, Any]) -> None:
    """Writes the manifest of a first search into its folder, or checks that of a search that goes on.

    Raises:
        ValueError: If the folder belongs to another search; the message says what differs.
    """
    folder = pathlib.Path(folder)
    file = folder / MANIFEST
    if not file.exists():
        if any(folder.glob("*/oracle.json")):
            raise ValueError(f"{folder} holds a search and no {MANIFEST} to say of what. Name another folder.")
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as own:  # chief and workers may all be at it
            own.write_text(json.dumps(manifest, indent=2) + "\n")
    check_same(json.loads(file.read_text()), manifest, folder, "Trials")


def _described(name, value):
    """Names and values of all that a setting consists of."""
    if dataclasses.is_dataclass(value):
        described = {name: type(value).__qualname__}
        for field in dataclasses.fields(value):
            described |= _described(f"{name}.{field.name}", getattr(value, field.name))
        return described
    if hasattr(value, "get_config"):
        return {name: type(value).__qualname__} | {f"{name}.{key}": item for key, item in value.get_config().items()}
    return {name: getattr(value, "__qualname__", type(value).__qualname__) if callable(value) else value}


def _sha256_of(split: Split) -> str:
    digest = hashlib.sha256()
    for array in (split.images, split.labels):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
