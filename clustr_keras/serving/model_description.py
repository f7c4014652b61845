"""What a server tells about a model: its signatures, and the state of its versions.

Read from the JSON of the REST interface, which is the JSON form of the gRPC messages: a field that is missing there has
its default.
"""

from dataclasses import dataclass
from typing import Any

from clustr_keras.serving.errors import CODES, ServingError

# What runs where a request names no signature.
DEFAULT_SIGNATURE = "serving_default"

# ModelServer lists what initializes a SavedModel among the signatures; it cannot be called.
_NO_SIGNATURE = "__saved_model_init_op"


@dataclass(frozen=True)
class TensorInfo:
    """An input or output.

    Attributes:
        dtype: TensorFlow's name of it, `"DT_FLOAT"` for example.
        shape: Tuple of integers, None for an axis of any size; None if the rank is unknown.
    """

    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class SignatureInfo:
    """A signature.

    Attributes:
        inputs, outputs: Name to `TensorInfo`.
    """

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]


@dataclass(frozen=True)
class VersionStatus:
    """A version of a model, as its server sees it.

    Attributes:
        version: Integer.
        state: `"START"`, `"LOADING"`, `"AVAILABLE"`, `"UNLOADING"`, `"END"` or `"UNKNOWN"`.
        error_code: `"OK"`, or the gRPC code of what went wrong when it was loaded.
        error_message: What went wrong, or an empty string.
    """

    version: int
    state: str
    error_code: str
    error_message: str


def signatures_from_json(document: Any) -> dict[str, SignatureInfo]:
    """All signatures of a model.

    Args:
        document: JSON of a `GetModelMetadataResponse`, as an answer to `/metadata`.

    Returns:
        A dictionary, name to `SignatureInfo`.

    Raises:
        ServingError: UNKNOWN, if it is something else.
    """
    try:
        signatures = document["metadata"]["signature_def"]["signature_def"]
        return {
            name: SignatureInfo(_tensors(signature["inputs"]), _tensors(signature["outputs"]))
            for name, signature in signatures.items()
            if name != _NO_SIGNATURE
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ServingError("UNKNOWN", f"the server's answer is not a model's metadata: {error!r}") from error


def versions_from_json(document: Any) -> list[VersionStatus]:
    """The state of each version of a model.

    Args:
        document: JSON of a `GetModelStatusResponse`, as an answer to `/v1/models/NAME`.

    Returns:
        A list of `VersionStatus`, in the server's order.

    Raises:
        ServingError: UNKNOWN, if it is something else.
    """
    try:
        return [
            VersionStatus(
                version=int(entry["version"]),
                state=entry.get("state", "UNKNOWN"),
                error_code=_code(entry["status"].get("error_code", "OK")),
                error_message=entry["status"].get("error_message", ""),
            )
            for entry in document["model_version_status"]
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ServingError("UNKNOWN", f"the server's answer is not a model's status: {error!r}") from error


def _tensors(infos):
    return {name: TensorInfo(info["dtype"], _shape(info["tensor_shape"])) for name, info in infos.items()}


def _shape(shape):
    if shape.get("unknown_rank"):
        return None
    sizes = [int(axis["size"]) for axis in shape.get("dim", [])]
    return tuple(None if size < 0 else size for size in sizes)


def _code(code):
    return code if isinstance(code, str) else CODES[code]
