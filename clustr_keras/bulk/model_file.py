"""What the files of a model say of it, read without TensorFlow, which takes seconds to start."""

import io
import json
import zipfile
from typing import Any

from clustr_keras.bulk.files import files_under, is_folder, read_bytes
from clustr_keras.serving.model_card import MODEL_CARD


def image_shape_of(path: str) -> tuple[int, ...] | None:
    """Looks up which images a model takes, as far as its files are plain about it.

    Args:
        path: A `.keras` file, or the folder of an exported version.

    Returns:
        `(H, W, C)`; `None` where only loading the model tells, or tells what is wrong with it.
    """
    try:
        return _of_export(path) if is_folder(path) else _of_keras(path)
    except (KeyError, TypeError, ValueError, OSError, zipfile.BadZipFile):
        return None


def _of_keras(path: str) -> tuple[int, ...] | None:
    with zipfile.ZipFile(io.BytesIO(read_bytes(path))) as archive:
        saved = json.loads(archive.read("config.json"))
    if saved["registered_name"] != "clustr_keras>ClustrClassifier":
        return None
    layers = saved["config"]["backbone"]["config"]["layers"]
    inputs = [layer["config"]["batch_shape"] for layer in layers if layer["class_name"] == "InputLayer"]
    return _image_shape(inputs[0][1:]) if len(inputs) == 1 else None


def _of_export(path: str) -> tuple[int, ...] | None:
    card = json.loads(read_bytes(f"{path}/{MODEL_CARD}"))
    has_graph = any(file.path == f"{path}/saved_model.pb" for file in files_under(path))
    return _image_shape(card["image_shape"]) if has_graph and card["certificate"] else None


def _image_shape(shape: list[Any]) -> tuple[int, ...] | None:
    return tuple(shape) if len(shape) == 3 and all(isinstance(size, int) for size in shape) else None
