"""Keras classifiers that prove how far an input may move before the answer changes.

Names are imported on first use, so that the REST client needs neither Keras nor TensorFlow. Everything that a saved
model may hold is registered for deserialization as soon as Keras is there.
"""

import importlib
import importlib.metadata

import wrapt

_HOMES = {
    "CertifiedAccuracy": "metrics",
    "CertifiedMarginLoss": "losses",
    "CertifiedRadius": "metrics",
    "ClusterHead": "heads",
    "ClustrClassifier": "classifier",
}
_MODULES = ("attacks", "backbones", "certificates", "data", "evaluation", "lipschitz", "serving")

__all__ = [*_HOMES, *_MODULES]
__version__ = importlib.metadata.version("clustr-keras")


def __getattr__(name):
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])


@wrapt.when_imported("keras")
def _register_for_deserialization(_):
    for module in ("classifier", "lipschitz", *sorted(set(_HOMES.values()))):
        importlib.import_module(f"{__name__}.{module}")
