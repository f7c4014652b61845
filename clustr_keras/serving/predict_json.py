"""Bodies of REST `:predict` requests and answers, in row and in column format.

Row format (`instances` and `predictions`) lists examples, column format (`inputs` and `outputs`) lists tensors.
"""

import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clustr_keras.serving import json_codec
from clustr_keras.serving.errors import ServingError
from clustr_keras.serving.tensor_json import array_from_json, array_to_json, is_base64


@dataclass(frozen=True)
class PredictBody:
    """A parsed request, whose tensors are not read yet: their dtypes are the signature's to say."""

    signature_name: str
    is_row_format: bool
    value: Any


def parse_predict(body: bytes) -> PredictBody:
    """Parse the body of a `:predict` request.

    Args:
        body: `bytes`, JSON that may hold `NaN`, `Infinity` and `-Infinity`.

    Returns:
        A `PredictBody`; its `signature_name` is empty if none was given.

    Raises:
        ServingError: INVALID_ARGUMENT, if it is not JSON, or not of the form of a request.
    """
    try:
        document = json_codec.loads(body)
    except RecursionError:
        raise _invalid("the body is nested too deeply to be tensors") from None
    except ValueError as error:  # bad syntax, bad UTF-8, or an integer of thousands of digits
        raise _invalid(f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise _invalid(f'the body must be an object with "instances" or "inputs"; got {reprlib.repr(document)}')
    signature_name = document.get("signature_name", "")
    if not isinstance(signature_name, str):
        raise _invalid(f'"signature_name" must be a string; got {reprlib.repr(signature_name)}')
    formats = [key for key in ("instances", "inputs") if key in document]
    if len(formats) != 1:
        raise _invalid(f'the body must have either "instances" or "inputs"; got {"both" if formats else "neither"}')
    return PredictBody(signature_name, formats == ["instances"], document[formats[0]])


def read_inputs(body: PredictBody, dtypes: Mapping[str, np.dtype[Any]]) -> dict[str, np.ndarray]:
    """Arrays of a request.

    Args:
        body: A `PredictBody`.
        dtypes: The signature's inputs: name to NumPy dtype.

    Returns:
        A dictionary: name to array, for exactly the names in `dtypes`.

    Raises:
        ServingError: INVALID_ARGUMENT, if names or values do not fit.
    """
    columns = _columns_of_rows(body.value, dtypes) if body.is_row_format else _columns(body.value, dtypes)
    return {name: array_from_json(columns[name], dtype, name) for name, dtype in dtypes.items()}


def write_outputs(outputs: Mapping[str, np.ndarray], is_row_format: bool) -> bytes:
    """Body of the answer, in the format of the request.

    The name of a single output is left out.

    Args:
        outputs: Name to array.
        is_row_format: Whether the request was in row format.

    Returns:
        `bytes`, JSON.

    Raises:
        ServingError: INVALID_ARGUMENT, if the row format cannot hold the outputs: their first axes differ.
    """
    if is_row_format:
        _check_batch(outputs)
    values = {name: array_to_json(array, name) for name, array in outputs.items()}
    if len(values) == 1:
        (value,) = values.values()
    elif is_row_format:
        value = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    else:
        value = values
    return json.dumps({"predictions" if is_row_format else "outputs": value}, ensure_ascii=False).encode()


def _columns_of_rows(rows, dtypes):
    if not isinstance(rows, list) or not rows:
        raise _invalid(f'"instances" must be a list of at least one example; got {reprlib.repr(rows)}')
    are_objects = {_is_object(row) for row in rows}
    if len(are_objects) > 1:
        raise _invalid('"instances" must hold objects or values, not both')
    if True not in are_objects:
        return {_only(dtypes, "instances"): rows}
    for index, row in enumerate(rows):
        if row.keys() != dtypes.keys():
            raise _invalid(f"instance {index} must have exactly the inputs {sorted(dtypes)}; got {sorted(row)}")
    return {name: [row[name] for row in rows] for name in dtypes}


def _columns(value, dtypes):
    if not _is_object(value):
        return {_only(dtypes, "inputs"): value}
    missing = sorted(dtypes.keys() - value.keys())
    if missing:
        raise _invalid(f'"inputs" lacks {missing}; the signature takes {sorted(dtypes)}')
    return value  # what the signature does not take is ignored


def _is_object(value):
    return isinstance(value, dict) and not is_base64(value)


def _only(dtypes, key):
    if len(dtypes) != 1:
        raise _invalid(f'"{key}" must name its tensors, as the signature takes {len(dtypes)}: {sorted(dtypes)}')
    return next(iter(dtypes))


def _check_batch(outputs):
    sizes = {name: array.shape[:1] for name, array in outputs.items()}
    if len(set(sizes.values())) != 1 or () in sizes.values():
        raise _invalid(f'outputs have first axes {sizes}, which "instances" cannot hold; send "inputs" instead')


def _invalid(message):
    return ServingError("INVALID_ARGUMENT", f"{message}.")
