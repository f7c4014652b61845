"""How good a classifier is on labeled images: the figures of the command line and of model cards."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from clustr_keras.classifier import Certificate, ClustrClassifier
from clustr_keras.types import ArrayLike, Floats, Ints


def accuracies_of(certificate: Certificate, labels: ArrayLike, radii: Sequence[float]) -> dict[str, Any]:
    """Clean accuracy, and certified accuracy at some radii.

    Args:
        certificate: `Certificate`.
        labels: Class ids `[B]`.
        radii: Floats, l_2.

    Returns:
        Dict: `test_images`; `clean_accuracy`; and `certified_accuracy`, a dict from radii to shares. Where nothing is
        certified, since the backbone has no rounding analysis, `uncertified_accuracy` is the same of radii in real
        arithmetic.

    Example:

    >>> accuracies_of(model.certify(x_test), y_test, [0.3])["certified_accuracy"]["0.3"]
    """
    is_right = certificate.class_ids == np.asarray(labels)
    is_certified = certificate.certified_radius is not None
    shares = {str(least): float(np.mean(is_right & (certificate.proved_radius >= least))) for least in radii}
    return {
        "test_images": len(is_right),
        "clean_accuracy": float(np.mean(is_right)),
        "certified_accuracy" if is_certified else "uncertified_accuracy": shares,
    }


def accuracy_facts(
    model: ClustrClassifier, images: Floats, labels: Ints, radii: Sequence[float] | None
) -> dict[str, Any]:
    """The same of a model, which is asked for its classes alone where `radii` is `None`."""
    if radii is not None:
        return accuracies_of(model.certify(images), labels, radii)
    predicted = model.predict(images, batch_size=250, verbose=0).argmax(-1)
    return {"test_images": len(labels), "clean_accuracy": float(np.mean(predicted == labels))}


def in_words(facts: dict[str, Any]) -> str:
    """These figures in one line."""
    words = f"clean accuracy {facts['clean_accuracy']:.1%}"
    for name, kind in (
        ("certified_accuracy", "certified accuracy"),
        ("uncertified_accuracy", "accuracy at radii in real arithmetic, which are not certified:"),
    ):
        if name in facts:
            shares = " and ".join(f"{share:.1%} at {float(radius):.4g}" for radius, share in facts[name].items())
            words += f", {kind} {shares}"
    return words
