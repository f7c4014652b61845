"""Keras classifiers that prove how far an input may move before the answer changes.

Names are imported on first use, so that the REST client needs neither Keras nor TensorFlow. Everything that a saved
model may hold is registered for deserialization as soon as Keras is there.
"""

import importlib
import importlib.metadata
import sys
from types import ModuleType
from typing import Any

import wrapt

_HOMES = {
    "CenterMagnetLoss": "losses",
    "CertifiedAccuracy": "metrics",
    "CertifiedMarginLoss": "losses",
    "CertifiedRadius": "metrics",
    "ClusterHead": "heads",
    "ClustrClassifier": "classifier",
    "MagnetLoss": "losses",
}
_MODULES = (
    "attacks",
    "backbones",
    "bulk",
    "certificates",
    "consistency",
    "data",
    "evaluation",
    "lipschitz",
    "losses",
    "metrics",
    "serving",
    "training",
    "tuning",
)

__all__ = [*_HOMES, *_MODULES]
__version__ = importlib.metadata.version("clustr-keras")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def register_for_deserialization(imported: ModuleType | None = None) -> None:
    """Imports everything that registers itself with Keras, once Keras is there.

    Not while another module of ours is still being imported: half a module cannot be imported from. Its own end comes
    here again.
    """
    modules = [(name, module) for name, module in list(sys.modules.items()) if module is not imported]
    ours = [module for name, module in modules if name.startswith(f"{__name__}.")]
    if "keras" in sys.modules and not any(getattr(module.__spec__, "_initializing", False) for module in ours):
        for module in ("classifier", "consistency", "lipschitz", *sorted(set(_HOMES.values()))):
            importlib.import_module(f"{__name__}.{module}")


for _name in ("keras", *(f"{__name__}.{module}" for module in (*_MODULES, *sorted(set(_HOMES.values()))))):
    wrapt.register_post_import_hook(register_for_deserialization, _name)
