"""Requests of TensorFlow Serving's REST interface, and answers read from JSON. Imports neither TensorFlow nor Keras."""

import base64
import reprlib
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np

from clustr_keras.serving import json_codec, splitting
from clustr_keras.serving.endpoint import Endpoint, ModelChoice
from clustr_keras.serving.errors import ServingError
from clustr_keras.serving.model_description import DEFAULT_SIGNATURE, signatures_from_json, versions_from_json
from clustr_keras.serving.tensor_json import array_from_json, numpy_dtype
from clustr_keras.types import Floats

# A number with its comma: the shortest decimal of a float32, and of a double.
_BYTES_PER_FLOAT32, _BYTES_PER_NUMBER = 12, 21


@dataclass(frozen=True)
class RestRequest:
    """A request, ready to send any number of times.

    Attributes:
        method: HTTP method.
        url: Where to.
        body: `bytes`, JSON; None for a GET.
        signature: Name of the signature that a `:predict` runs; empty for the default one.
        read: Function that makes the result of the JSON of its answer; None for a `:predict`, for which the signature's
            outputs say how.
    """

    method: str
    url: str
    body: bytes | None = None
    signature: str = ""
    read: Callable[[Any], Any] | None = None


class RestRequests:
    """Makes the requests to one model, and reads their answers.

    Args:
        endpoint: An `Endpoint`.
        model: A `ModelChoice`.
    """

    def __init__(self, endpoint: Endpoint, model: ModelChoice) -> None:
        choice = ""
        if model.version is not None:
            choice = f"/versions/{model.version}"
        elif model.label is not None:
            choice = f"/labels/{quote(model.label, safe='')}"
        self._url = f"{endpoint.address}/v1/models/{quote(model.name, safe='')}{choice}"
        # JSON does not say which dtypes an answer has; the model's metadata does, and is asked once for each signature.
        self._dtypes: dict[str, dict[str, np.dtype[Any]]] = {}

    @staticmethod
    def row_bytes(array: np.ndarray) -> Floats:
        """About how many bytes each row of an array takes in a request."""
        number_bytes = _BYTES_PER_FLOAT32 if array.dtype == np.float32 else _BYTES_PER_NUMBER
        return splitting.row_bytes(array, number_bytes, lambda value: len(value) * 4 // 3 + len('{"b64":""},'))

    def predict(self, signature: str, inputs: Mapping[str, np.ndarray]) -> RestRequest:
        """Run a signature: answers name to array, strings as object arrays of `bytes`."""
        body = {"signature_name": signature, "inputs": {name: _value(array) for name, array in inputs.items()}}
        encoded = json_codec.dumps(body)
        return RestRequest("POST", f"{self._url}:predict", encoded, signature=signature)

    def signatures(self) -> RestRequest:
        """Ask for the signatures: answers name to `SignatureInfo`."""
        return RestRequest("GET", f"{self._url}/metadata", read=signatures_from_json)

    def versions(self) -> RestRequest:
        """Ask for the state of the versions: answers a list of `VersionStatus`."""
        return RestRequest("GET", self._url, read=versions_from_json)

    def exchange(self, request: RestRequest) -> Generator[RestRequest, Any, Any]:
        """All that is to be sent for one request.

        Args:
            request: A `RestRequest`.

        Yields:
            Each `RestRequest` to send; the JSON object of its answer is to be sent back in.

        Returns:
            The result.

        Raises:
            ServingError: UNKNOWN, if an answer is not of the form that was expected.
        """
        if request.read is not None:
            return request.read((yield request))
        dtypes = self._dtypes.get(request.signature)
        if not dtypes:  # first, so that no answer is lost for want of it
            dtypes = self._learn_dtypes(request.signature, (yield self.signatures()))
        answer = yield request
        if not _outputs_fit(answer, dtypes):  # a version with other outputs has come since
            dtypes = self._learn_dtypes(request.signature, (yield self.signatures()))
        return _read_outputs(request, answer, dtypes)

    def _learn_dtypes(self, signature, answer):
        known = signatures_from_json(answer).get(signature or DEFAULT_SIGNATURE)
        outputs = {} if known is None else known.outputs  # an unknown signature is the server's to refuse
        self._dtypes[signature] = {name: numpy_dtype(info.dtype) for name, info in outputs.items()}
        return self._dtypes[signature]


def read_json(request: RestRequest, response: httpx.Response) -> dict[str, Any]:
    """The JSON object of an answer.

    Args:
        request: The `RestRequest`.
        response: An `httpx.Response`.

    Returns:
        A dictionary.

    Raises:
        ServingError: With the code of the HTTP status, if it is not 200; or if the body is no JSON object.
    """
    try:
        answer = json_codec.loads(response.content)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        start = f"HTTP {response.status_code} from {request.url} without a JSON object: {response.text[:200]}"
        raise ServingError.from_http(response.status_code, start)
    if response.status_code != 200:
        raise ServingError.from_http(response.status_code, str(answer.get("error", answer)))
    return answer


def _outputs_fit(answer, dtypes):
    if len(dtypes) == 1:  # the name of a single output is left out
        return "outputs" in answer
    return isinstance(answer.get("outputs"), dict) and answer["outputs"].keys() == dtypes.keys()


def _read_outputs(request, answer, dtypes):
    if not _outputs_fit(answer, dtypes):
        raise ServingError(
            "UNKNOWN",
            f"{request.url} does not answer as its metadata says: expected outputs {sorted(dtypes)} for signature "
            f"{request.signature!r}; got {reprlib.repr(answer)}.",
        )
    outputs = dict.fromkeys(dtypes, answer["outputs"]) if len(dtypes) == 1 else answer["outputs"]
    return {name: array_from_json(outputs[name], dtype, name) for name, dtype in dtypes.items()}


def _value(array):
    if array.dtype != object:
        return array
    leaves = np.empty(array.size, dtype=object)
    leaves[:] = [_string(leaf) for leaf in array.ravel()]
    return leaves.reshape(array.shape).tolist()


def _string(value):
    if isinstance(value, str):
        return value
    # Bytes may be anything, and text that arrives in base64 is the same text.
    return {"b64": base64.b64encode(value).decode()}
