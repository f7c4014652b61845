"""JSON text, fast where it can be: orjson for what JSON proper allows, the standard library for NaN and infinities.

NumPy and orjson only: server and REST client share it, and the client loads without TensorFlow.
"""

import contextlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

# What orjson writes itself.
_DTYPES = ("bool", "float32", "float64", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)))


def dumps(document: Mapping[str, Any]) -> bytes:
    """JSON of nested dicts, in which arrays of numbers stand for nested lists.

    Floats get decimals that give the same float back. NaN and infinities are written as TensorFlow Serving reads them:
    `NaN`, `Infinity`, `-Infinity`.

    Args:
        document: Dicts with `str` keys that hold dicts, arrays of numbers, `str`, or lists of `str`.

    Returns:
        `bytes`.
    """
    if _is_plain(document):
        with contextlib.suppress(orjson.JSONEncodeError):  # of a lone surrogate
            return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return json.dumps(document, separators=(",", ":"), default=np.ndarray.tolist).encode()


def loads(text: bytes) -> Any:
    """The value of JSON text, which may hold `NaN`, `Infinity` and `-Infinity`.

    Args:
        text: `bytes`.

    Returns:
        Nested dicts and lists.

    Raises:
        ValueError: If it is not JSON.
        RecursionError: If it is nested too deeply.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)


def _is_plain(value):
    """Whether orjson writes it as it is; a NaN it would write as null."""
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if not isinstance(value, np.ndarray):
        return True
    return str(value.dtype) in _DTYPES and value.ndim > 0 and value.flags.c_contiguous and np.isfinite(value).all()
