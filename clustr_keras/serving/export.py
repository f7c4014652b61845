"""Writes a classifier as a SavedModel that answers with its proof."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import shutil
import tempfile

import keras

from clustr_keras.serving.signatures import Signatures

MODEL_CARD = "assets.extra/model_card.json"


def export_model(model, directory, version=None, method=None, facts=None, max_pixels=2**24):
    """Exports a classifier to `directory/<version>/` for TensorFlow Serving.

    The SavedModel holds condensed float32 kernels and the signatures `serving_default`, `certify`, `certify_at`,
    `certify_encoded` and `embed`. It is written to a temporary sibling and renamed, so that a server never sees half of
    it, and a model card is put into its `assets.extra`.

    Args:
        model: `ClustrClassifier` with a proved bound and a rounding analysis.
        directory: Folder of the model, which holds the version folders.
        version: Positive integer; one more than the largest present by default.
        method: How radii are computed, see `ClustrClassifier.certify`.
        facts: Dict that goes into the model card, for example the data set and accuracies.
        max_pixels: Largest number of pixels that an encoded image may declare.

    Returns:
        `pathlib.Path` of the version folder.

    Raises:
        ValueError: If the model has no certified radius, its input size is not fixed, or the version is there already.

    Example:

    >>> export_model(model, "serving/clustr", facts={"data_set": "digits"})
    PosixPath('serving/clustr/1')
    """
    directory = pathlib.Path(directory)
    image_shape = model.backbone.input_shape[1:]
    if None in image_shape or len(image_shape) != 3:
        raise ValueError(
            f"an export needs a backbone with a fixed input [B, H, W, C]; got {model.backbone.input_shape}."
        )
    if method == "soft":
        raise ValueError("the radius of soft scores is not certified in float32; export with another method.")
    certifier = model.certifier(method)
    if not certifier.has_rounding_analysis:
        raise ValueError(
            f"the backbone {model.backbone.name!r} has a Lipschitz bound but no analysis of its float32 rounding, "
            "so its radii are not certified and the model is not exported."
        )
    directory.mkdir(parents=True, exist_ok=True)
    version = 1 + max(versions(directory), default=0) if version is None else version
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f"version must be a positive integer; got {version!r}.")
    target = directory / str(version)
    if target.exists():
        raise ValueError(f"version {version} is there already: {target}. Leave version out to get the next one.")

    # Not an integer, so that no server takes it for a version; a sibling, so that the rename stays on one file system.
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".export-{version}-", dir=directory))
    try:
        archive = keras.export.ExportArchive()
        archive.track(certifier)
        for name, function, signature in Signatures(certifier, image_shape, model.class_names, max_pixels).endpoints():
            archive.add_endpoint(name, function, input_signature=signature)
        archive.write_out(str(temporary), verbose=False)
        card = temporary / MODEL_CARD
        card.parent.mkdir(parents=True, exist_ok=True)
        card.write_text(json.dumps(_model_card(model, certifier, facts or {}), indent=2) + "\n")
        temporary.chmod(0o755)
        os.rename(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def versions(directory):
    """Version numbers of the folders in a model directory, ascending."""
    return sorted(int(entry.name) for entry in pathlib.Path(directory).iterdir() if entry.name.isdecimal())


def _model_card(model, certifier, facts):
    packages = ("clustr-keras", "keras", "tensorflow", "numpy")
    return {
        **facts,
        "lipschitz_bound": certifier.bound.value,
        "lipschitz_table": [
            {"operation": operation, "bound": value, "how": how} for operation, value, how in certifier.bound.table
        ],
        "certificate": {
            "norm": "l_2, pixels scaled to [0, 1]",
            "method": certifier.method,
            "arithmetic": "IEEE float32, any order of summation; no TF32, reduced precision, Winograd or FFT",
            "rounding_slack_subtracted": True,
            "of_encoded_images": "the radius is that of the decoded float image",
        },
        "image_shape": list(model.backbone.input_shape[1:]),
        "class_names": model.class_names,
        "clusters_per_class": model.clusters_per_class,
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
