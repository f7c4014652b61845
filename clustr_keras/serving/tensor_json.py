"""One tensor as JSON, by the rules of TensorFlow Serving's REST interface, and back.

NumPy only: server and REST client share it, and the client loads without TensorFlow. A tensor of strings is an
object array of `bytes`, as in TensorFlow.
"""

import base64
import binascii
import itertools
import reprlib
from typing import Any

import numpy as np
import numpy.typing as npt

from clustr_keras.serving.errors import ServingError

# A JSON list deeper than this is no tensor: NumPy itself ends at 64 axes.
_MAX_RANK = 32

_DTYPES = {
    "DT_BOOL": np.bool_,
    "DT_DOUBLE": np.float64,
    "DT_FLOAT": np.float32,
    "DT_HALF": np.float16,
    "DT_INT16": np.int16,
    "DT_INT32": np.int32,
    "DT_INT64": np.int64,
    "DT_INT8": np.int8,
    "DT_STRING": np.object_,
    "DT_UINT16": np.uint16,
    "DT_UINT32": np.uint32,
    "DT_UINT64": np.uint64,
    "DT_UINT8": np.uint8,
}

# What JSON may hold for each kind of dtype. JSON's types are kept apart: a string is no number, `true` is not 1.
_JSON_TYPES: dict[str, set[type]] = {"b": {bool}, "i": {int}, "u": {int}, "f": {int, float}, "O": {str, dict}}


def numpy_dtype(name: str) -> np.dtype[Any]:
    """NumPy's dtype for a TensorFlow type name, `"DT_FLOAT"` for example.

    Args:
        name: Name of a value of TensorFlow's `DataType`.

    Returns:
        A `np.dtype`; `object` for strings.

    Raises:
        ServingError: UNIMPLEMENTED, if the type has no form in JSON.
    """
    if name not in _DTYPES:
        raise ServingError("UNIMPLEMENTED", f"{name} has no form in JSON; use gRPC. JSON has {', '.join(_DTYPES)}.")
    return np.dtype(_DTYPES[name])


def is_base64(value: object) -> bool:
    """Whether a JSON value is `{"b64": "..."}`, the form of binary values."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def array_from_json(value: Any, dtype: npt.DTypeLike, name: str) -> np.ndarray:
    """Array of a JSON value: a scalar, or lists nested evenly.

    Args:
        value: What `json.loads` made of it.
        dtype: The array's dtype; `object` means strings, given as text or as `{"b64": ...}`.
        name: The tensor's name, for error messages.

    Returns:
        An array; strings as `bytes`.

    Raises:
        ServingError: INVALID_ARGUMENT, if lists are uneven or a value does not fit the dtype without loss.

    Example:
    >>> array_from_json([[1, 2], [3, 4.5]], np.float32, "x")
    array([[1. , 2. ],
           [3. , 4.5]], dtype=float32)
    """
    dtype = np.dtype(dtype)
    leaves, shape = _flatten(value, name)
    allowed = _JSON_TYPES[dtype.kind]
    if not set(map(type, leaves)) <= allowed:
        index, leaf = next((i, leaf) for i, leaf in enumerate(leaves) if type(leaf) not in allowed)
        raise _invalid(name, f"expected {_describe(dtype)}; got {reprlib.repr(leaf)} as value {index}")
    read = {"f": _floats, "i": _integers, "u": _integers, "b": _booleans, "O": _strings}[dtype.kind]
    return read(leaves, dtype, name).reshape(shape)


def array_to_json(array: np.ndarray, name: str) -> Any:
    """JSON value of an array: what TensorFlow Serving would send.

    Floats get the shortest decimals that give the same float back, so a float32 of 0.2 is `0.2`. Strings of a tensor
    whose name ends in `_bytes` become `{"b64": ...}`.

    Args:
        array: An array; strings as an object array of `bytes`.
        name: The tensor's name.

    Returns:
        A value for `json.dumps`.

    Raises:
        ServingError: UNIMPLEMENTED, if the dtype has no form in JSON; INVALID_ARGUMENT, if a string is not UTF-8 and
            the name does not end in `_bytes`.
    """
    if array.dtype == object:
        encode = _to_base64 if name.endswith("_bytes") else _to_text
        leaves = [encode(leaf, name) for leaf in array.ravel()]
    elif array.dtype in (np.float16, np.float32):
        leaves = [float(str(leaf)) for leaf in array.ravel()]  # str() of a NumPy float is its shortest decimal
    elif array.dtype.kind in "biuf":
        return array.tolist()
    else:
        raise ServingError("UNIMPLEMENTED", f'tensor "{name}" has dtype {array.dtype}, which has no form in JSON.')
    nested = np.empty(len(leaves), dtype=object)
    nested[:] = leaves
    return nested.reshape(array.shape).tolist()


def _flatten(value, name):
    """All leaves of evenly nested lists, and the shape; level by level, so that no depth exhausts the stack."""
    level: list[Any] = [value]
    shape: list[int] = []
    while level and isinstance(level[0], list):
        if len(shape) == _MAX_RANK:
            raise _invalid(name, f"lists are nested deeper than {_MAX_RANK}")
        if set(map(type, level)) != {list}:
            raise _invalid(name, f"lists and values are mixed at depth {len(shape) + 1}")
        lengths = set(map(len, level))
        if len(lengths) > 1:
            raise _invalid(name, f"lists at depth {len(shape) + 1} differ in length: {sorted(lengths)[:5]}")
        shape += lengths
        level = list(itertools.chain.from_iterable(level))
    return level, shape


def _floats(leaves, dtype, name):
    # An integer that the float cannot hold is a mistake of the caller; a decimal is rounded, as everywhere.
    exact = 2 ** (np.finfo(dtype).nmant + 1) - 1
    for leaf in leaves:
        if type(leaf) is int and abs(leaf) > exact:
            raise _invalid(name, f"{reprlib.repr(leaf)} does not fit {dtype} without loss of precision")
    wide = np.array(leaves, dtype=np.float64)
    with np.errstate(over="ignore"):
        narrow = wide.astype(dtype)
    lost = np.isinf(narrow) & ~np.isinf(wide)
    if lost.any():
        raise _invalid(name, f"{wide[lost][0]} is too large for {dtype}")
    return narrow


def _integers(leaves, dtype, name):
    limits = np.iinfo(dtype)
    for leaf in leaves:
        if not limits.min <= leaf <= limits.max:
            raise _invalid(name, f"{reprlib.repr(leaf)} is outside {limits.min}..{limits.max}, the range of {dtype}")
    return np.array(leaves, dtype=dtype)


def _booleans(leaves, dtype, name):
    del name
    return np.array(leaves, dtype=dtype)


def _strings(leaves, dtype, name):
    array = np.empty(len(leaves), dtype=dtype)
    array[:] = [_from_base64(leaf, name) if isinstance(leaf, dict) else _from_text(leaf, name) for leaf in leaves]
    return array


def _from_base64(leaf, name):
    if not is_base64(leaf):
        raise _invalid(name, f'expected a string or {{"b64": "..."}}; got {reprlib.repr(leaf)}')
    text = leaf["b64"]
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)  # padding is optional
    except (binascii.Error, ValueError) as error:
        raise _invalid(name, f"{reprlib.repr(text)} is not base64 ({error})") from None


def _from_text(leaf, name):
    try:
        return leaf.encode()
    except UnicodeEncodeError:
        raise _invalid(name, f'{reprlib.repr(leaf)} is not Unicode; send it as {{"b64": "..."}}') from None


def _to_base64(leaf, name):
    return {"b64": base64.b64encode(leaf).decode()}


def _to_text(leaf, name):
    try:
        return leaf.decode()
    except UnicodeDecodeError:
        raise _invalid(name, "holds strings that are not UTF-8; the model must end its name in _bytes") from None


def _describe(dtype):
    return "strings" if dtype.kind == "O" else f"values for {dtype}"


def _invalid(name, message):
    return ServingError("INVALID_ARGUMENT", f'tensor "{name}": {message}.')
