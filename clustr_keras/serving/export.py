"""Writes a classifier as a SavedModel that answers with its proof."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from clustr_keras.backend import require_tensorflow
from clustr_keras.classifier import ClustrClassifier
from clustr_keras.data.checks import check_images
from clustr_keras.integers import checked_integer
from clustr_keras.lipschitz import UnknownBoundError, condense
from clustr_keras.serving.encoded_images import MAX_PIXELS
from clustr_keras.serving.model_card import MODEL_CARD
from clustr_keras.serving.signatures import Signatures, example_inputs
from clustr_keras.serving.uncertified import Uncertified
from clustr_keras.serving.verification import verify_export
from clustr_keras.serving.version_folders import versions
from clustr_keras.serving.warmup import write_warmup
from clustr_keras.types import ArrayLike


def export_model(
    model: ClustrClassifier,
    directory: str | os.PathLike[str],
    version: int | None = None,
    method: str | None = None,
    facts: Mapping[str, Any] | None = None,
    max_pixels: int = MAX_PIXELS,
    *,
    resize: bool = False,
    certificate: bool = True,
    verify_on: ArrayLike | None = None,
) -> pathlib.Path:
    """Exports a classifier to `directory/<version>/` for TensorFlow Serving.

    The SavedModel holds condensed float32 kernels and the signatures `serving_default`, `certify`, `certify_at`,
    `certify_encoded` and `embed`. Into its `assets.extra` go a model card and a warm-up request for each signature. It
    is written to a temporary sibling and renamed, so that a server never sees half of it.

    Args:
        model: `ClustrClassifier` with a proved bound and a rounding analysis.
        directory: Folder of the model, which holds the version folders.
        version: Positive integer; one more than the largest present by default.
        method: How radii are computed, see `ClustrClassifier.certify`.
        facts: Dict that goes into the model card, for example the data set and accuracies.
        max_pixels: Largest number of pixels that an encoded image may declare.
        resize: Whether encoded images of another size are resized; they are invalid otherwise.
        certificate: `False` exports a model without a proved bound too: `serving_default` and `embed` only, without a
            radius, and the card says so.
        verify_on: Floats `[B, H, W, C]` in [0, 1]: on these the export is compared with the live model bit for bit, in
            a fresh process that runs it as ModelServer does, before it becomes visible.

    Returns:
        `pathlib.Path` of the version folder.

    Raises:
        ValueError: If Keras does not run on TensorFlow, the model has no certified radius, its input size is not fixed,
            the version is there already, or the export does not answer as the live model does.

    Example:

    >>> export_model(model, "serving/clustr", facts={"data_set": "digits"})
    PosixPath('serving/clustr/1')
    """
    require_tensorflow("an export")
    directory = pathlib.Path(directory)
    image_shape = model.backbone.input_shape[1:]
    if None in image_shape or len(image_shape) != 3:
        raise ValueError(
            f"an export needs a backbone with a fixed input [B, H, W, C]; got {model.backbone.input_shape}."
        )
    if verify_on is not None:
        check_images(verify_on, image_shape, "verify_on")
    deployed = _certifier(model, method) if certificate else Uncertified(condense(model.backbone), model.head)
    signatures = Signatures(deployed, image_shape, model.class_names, max_pixels, resize)
    directory.mkdir(parents=True, exist_ok=True)
    is_free = version is None
    version = 1 + max(versions(directory), default=0) if version is None else checked_integer("version", version)
    target = directory / str(version)
    if target.exists():
        raise ValueError(f"version {version} is there already: {target}. Leave version out to get the next one.")

    # Not an integer, so that no server takes it for a version; a sibling, so that the rename stays on one file system.
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".export-{version}-", dir=directory))
    try:
        archive = keras.export.ExportArchive()
        archive.track(deployed)
        for name, function, signature in signatures.endpoints():
            archive.add_endpoint(name, function, input_signature=signature)
        archive.write_out(str(temporary), verbose=False)
        card = temporary / MODEL_CARD
        card.parent.mkdir(parents=True, exist_ok=True)
        card.write_text(json.dumps(_model_card(model, signatures, facts or {}), indent=2) + "\n")
        write_warmup(temporary, _warmup_requests(signatures))
        temporary.chmod(0o755)
        if verify_on is not None:
            verify_export(temporary, signatures, np.asarray(verify_on, "float32"))
        target = _publish(temporary, directory, target, is_free)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def _publish(temporary, directory, target, is_free):
    """Renames a folder to its version; to the next one, where another export was faster and the number is free."""
    while True:
        try:
            os.rename(temporary, target)
        except OSError:
            if not (is_free and target.exists()):
                raise
            target = directory / str(1 + max(versions(directory)))
        else:
            return target


def _certifier(model, method):
    if method == "soft":
        raise ValueError("the radius of soft scores is not certified in float32; export with another method.")
    instead = "To serve it without a certificate, export with certificate=False (--without-certificate)."
    try:
        certifier = model.certifier(method)
    except UnknownBoundError as error:
        raise ValueError(f"{error} {instead}") from error
    if not certifier.has_rounding_analysis:
        raise ValueError(
            f"the backbone {model.backbone.name!r} has a Lipschitz bound but no analysis of its float32 rounding, "
            f"so its radii are not certified and the model is not exported. {instead}"
        )
    return certifier


def _warmup_requests(signatures):
    """One request of one gray image for each signature."""
    image = np.full((1, *signatures.image_shape), 0.5, "float32")
    return [(name, example_inputs(specs, image)) for name, _, specs in signatures.endpoints()]


def _model_card(model, signatures, facts):
    packages = ("clustr-keras", "keras", "tensorflow", "numpy")
    return {
        **facts,
        **(_proof(signatures.model) if signatures.is_certified else {"lipschitz_bound": None, "certificate": None}),
        "encoded_images": {"max_pixels": signatures.max_pixels, "resized": signatures.resize},
        "image_shape": list(signatures.image_shape),
        "class_names": signatures.class_names,
        "clusters_per_class": model.clusters_per_class,
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _proof(certifier):
    return {
        "lipschitz_bound": certifier.bound.value,
        "lipschitz_table": [
            {"operation": operation, "bound": value, "how": how} for operation, value, how in certifier.bound.table
        ],
        "certificate": {
            "norm": "l_2, pixels scaled to [0, 1]",
            "method": certifier.method,
            "arithmetic": "IEEE float32, any order of summation; no TF32, reduced precision, Winograd or FFT",
            "rounding_slack_subtracted": True,
            "of_encoded_images": "the radius is that of the float image, decoded and resized",
        },
    }
