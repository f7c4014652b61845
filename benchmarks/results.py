"""Writes what a benchmark found: `results/<script>.json`, and a table made of it, `results/<script>.md`."""

import datetime
import importlib
import json
import os
import pathlib
import platform

import keras
import numpy


def machine():
    """What every row says about where and when it was measured."""
    backend = importlib.import_module(keras.backend.backend())
    name = {"tensorflow": "TensorFlow", "jax": "JAX"}[keras.backend.backend()]
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": f"Python {platform.python_version()}, Keras {keras.__version__}, "
        f"{name} {backend.__version__}, NumPy {numpy.__version__}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def write_results(script, rows):
    """Writes rows, dicts with the same keys, those of `machine()` among them; prints the table."""
    stem = pathlib.Path(script).parent / "results" / pathlib.Path(script).stem
    stem.parent.mkdir(exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(rows, indent=2) + "\n")
    circumstances = [name for name in machine() if name in rows[0]]
    columns = [name for name in rows[0] if name not in circumstances]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(row[name]) for name in columns) + " |" for row in rows]
    # Rows of several days have several dates.
    found = {name: sorted({row[name] for row in rows}) for name in circumstances}
    lines += ["", "; ".join(f"{name}: {' / '.join(values)}" for name, values in found.items()) + "."]
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
