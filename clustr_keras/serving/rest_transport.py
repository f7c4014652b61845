"""Requests over REST. Imports neither TensorFlow nor Keras."""

import base64
import json
from urllib.parse import quote

import httpx
import numpy as np

from clustr_keras.serving.errors import ServingError
from clustr_keras.serving.tensor_json import array_from_json, numpy_dtype

# A float32 as the decimal of the double it is, with its comma.
_BYTES_PER_NUMBER = 22


class RestTransport:
    """One pool of connections to a server.

    Args:
        url: `http://host:port` or `https://host:port`, a path before `/v1` included.
        model: The model's name.
        version: Its version, or None for the server's choice.
        is_local: Whether the server is on this machine, where no proxy can help.
    """

    def __init__(self, url, model, version, is_local):
        """Connecting is left to the first request."""
        versions = "" if version is None else f"/versions/{version}"
        self._url = f"{url.rstrip('/')}/v1/models/{quote(model, safe='')}{versions}"
        self._http = httpx.Client(trust_env=not is_local)
        # JSON does not say which dtypes an answer has; the model's metadata does, and is asked once.
        self._output_dtypes = {}

    @staticmethod
    def wire_bytes(array):
        """About how many bytes an array takes in a request."""
        if array.dtype == object:
            return sum(len(value) * 4 // 3 + 16 for value in array.ravel())
        return array.size * _BYTES_PER_NUMBER

    def encode(self, signature, inputs):
        """The request, ready to send any number of times: the signature's name, and the body."""
        body = {"signature_name": signature, "inputs": {name: _value(array) for name, array in inputs.items()}}
        return signature, json.dumps(body).encode()

    def send(self, request, timeout):
        """Send once, and wait.

        Args:
            request: What `encode` made.
            timeout: Seconds, for connecting, for each write and for each read.

        Returns:
            Name to array; strings as object arrays of `bytes`.

        Raises:
            ServingError: With the code of the server's HTTP status, or UNAVAILABLE or DEADLINE_EXCEEDED if it did not
                answer.
        """
        signature, body = request
        # First, so that no answer is lost for want of it. An unknown signature is the server's to refuse, below.
        dtypes = self._output_dtypes.get(signature) or self._read_output_dtypes(signature, timeout)
        answer = self._request("POST", ":predict", timeout, body)
        try:
            # The name of a single output is left out.
            outputs = dict.fromkeys(dtypes, answer["outputs"]) if len(dtypes) == 1 else answer["outputs"]
            arrays = {name: array_from_json(outputs[name], dtype, name) for name, dtype in dtypes.items()}
        except (KeyError, TypeError) as error:  # a version with other outputs has come since, for one
            self._output_dtypes.pop(signature, None)
            raise ServingError("UNKNOWN", f"{self._url} does not answer as its metadata says: {error!r}") from error
        self._output_dtypes[signature] = dtypes
        return arrays

    def close(self):
        """Close all connections."""
        self._http.close()

    def _read_output_dtypes(self, signature, timeout):
        metadata = self._request("GET", "/metadata", timeout)
        try:
            signatures = metadata["metadata"]["signature_def"]["signature_def"]
            outputs = signatures[signature]["outputs"] if signature in signatures else {}
            return {name: numpy_dtype(info["dtype"]) for name, info in outputs.items()}
        except (KeyError, TypeError) as error:
            raise ServingError("UNKNOWN", f"{self._url}/metadata is not that of a model: {error!r}") from error

    def _request(self, method, action, timeout, body=None):
        headers = {"content-type": "application/json"} if body else {}
        try:
            response = self._http.request(method, self._url + action, content=body, headers=headers, timeout=timeout)
        except httpx.TimeoutException as error:
            raise ServingError("DEADLINE_EXCEEDED", f"no answer from {self._url} in {timeout:.3g} s.") from error
        except httpx.TransportError as error:
            raise ServingError("UNAVAILABLE", f"cannot reach {self._url}: {error}") from error
        try:
            answer = json.loads(response.content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            code = f"HTTP {response.status_code} from {self._url + action} without a JSON object: {response.text[:200]}"
            raise ServingError.from_http(response.status_code, code)
        if response.status_code != 200:
            raise ServingError.from_http(response.status_code, str(answer.get("error", answer)))
        return answer


def _value(array):
    if array.dtype != object:
        return array.tolist()
    leaves = np.empty(array.size, dtype=object)
    leaves[:] = [_string(leaf) for leaf in array.ravel()]
    return leaves.reshape(array.shape).tolist()


def _string(value):
    if isinstance(value, str):
        return value
    # Bytes may be anything, and text that arrives in base64 is the same text.
    return {"b64": base64.b64encode(value).decode()}
