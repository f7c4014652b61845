"""Serving: export a model, serve it on this machine, query it wherever it runs.

Names load on first use, so that a REST client starts without importing TensorFlow or Keras.
"""

from importlib import import_module

_HOMES = {
    "AsyncClient": "clustr_keras.serving.async_client",
    "BatchingParameters": "clustr_keras.serving.batching",
    "Client": "clustr_keras.serving.client",
    "LoadTestResult": "clustr_keras.serving.load_test",
    "LocalServer": "clustr_keras.serving.server",
    "ServingError": "clustr_keras.serving.errors",
    "export_model": "clustr_keras.serving.export",
    "run_load_test": "clustr_keras.serving.load_test",
}

__all__ = list(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_HOMES)}.")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__():
    return sorted({*globals(), *_HOMES})
