"""Client: predictions with their certificates from any TensorFlow Serving that holds one of our exports."""

import random
import time
from urllib.parse import urlsplit

import numpy as np

from clustr_keras.serving.errors import ServingError
from clustr_keras.serving.results import Certification, Embedding, Prediction, RadiusCheck, from_outputs

# Waits before the second, third, ... attempt: doubling from the first to the last of these.
_FIRST_WAIT = 0.1
_LONGEST_WAIT = 1.0


class Client:
    """Queries a model over gRPC or REST.

    Connections are made with the first request and kept. One client may be used from many threads. The REST client
    imports neither TensorFlow nor Keras; the gRPC client imports TensorFlow with its first request.

    Args:
        target: `"host:port"` or `"grpc://host:port"` for gRPC; `"http://host:port"` or `"https://host:port"` for REST.
        model: The model's name.
        version: Its version, an integer; by default the server chooses, which is the newest unless configured.
        timeout: Seconds that one request may take, retries included. Over REST it limits each step of one: connecting,
            each write, each read.
        max_rows: Most examples in one request; larger batches are split.
        max_bytes: Largest request, approximately; larger batches are split.
        attempts: How often a request is sent in all while the server is UNAVAILABLE. Other errors are never retried.

    Raises:
        ValueError: If `target` is of neither form.

    Example:
    >>> with Client("localhost:8500") as client:
    ...     answer = client.predict(images)
    >>> answer.class_names, answer.certified_radius
    (array(['7', '2']), array([0.81, 0.47], dtype=float32))
    """

    def __init__(
        self,
        target,
        model="clustr",
        version=None,
        timeout=10.0,
        *,
        max_rows=1024,
        max_bytes=16 * 2**20,
        attempts=3,
    ):
        """Nothing is sent before the first request."""
        for what, value in (("timeout", timeout), ("max_rows", max_rows), ("max_bytes", max_bytes)):
            if not value > 0:
                raise ValueError(f"{what} must be greater than 0; got {value}.")
        if attempts < 1:
            raise ValueError(f"attempts must be at least 1; got {attempts}.")
        self.timeout = timeout
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._attempts = attempts
        self._transport = _connect(target, model, version)

    def predict(self, images, signature="serving_default"):
        """Classify images.

        Args:
            images: Floats `[B, H, W, C]` in [0, 1], of the model's size.
            signature: Name of a signature with the inputs and outputs of `serving_default`.

        Returns:
            A `Prediction`.

        Raises:
            ValueError: If `images` is not a batch of float images.
            ServingError: If the server refuses or does not answer.
        """
        return from_outputs(Prediction, self._call_in_parts(signature, {"images": _images(images)}))

    def certify(self, images):
        """Classify images, with all that the certificate rests on.

        Args:
            images: As for `predict`.

        Returns:
            A `Certification`.

        Raises:
            ValueError, ServingError: As `predict`.
        """
        return from_outputs(Certification, self._call_in_parts("certify", {"images": _images(images)}))

    def certify_at(self, images, radius):
        """Whether each prediction is certified at a radius.

        Args:
            images: As for `predict`.
            radius: A float for all, or floats `[B]`, in input units. A negative or non-finite one certifies nothing.

        Returns:
            A `RadiusCheck`.

        Raises:
            ValueError, ServingError: As `predict`; ValueError also for a `radius` of another shape.
        """
        images = _images(images)
        radius = np.asarray(radius, dtype=np.float32)
        if radius.shape not in ((), images.shape[:1]):
            raise ValueError(f"radius must be a scalar or have shape {images.shape[:1]}; got {radius.shape}.")
        radius = np.array(np.broadcast_to(radius, images.shape[:1]))
        return from_outputs(RadiusCheck, self._call_in_parts("certify_at", {"images": images, "radius": radius}))

    def embed(self, images):
        """Embeddings of images.

        Args:
            images: As for `predict`.

        Returns:
            An `Embedding`.

        Raises:
            ValueError, ServingError: As `predict`.
        """
        return from_outputs(Embedding, self._call_in_parts("embed", {"images": _images(images)}))

    def call(self, signature, inputs):
        """Run any signature of any model, in one request.

        Args:
            signature: Its name.
            inputs: Name to array, of the signature's dtypes; strings as `str` or `bytes`.

        Returns:
            Name to array. Strings are `str`, those of outputs whose name ends in `_bytes` are `bytes`.

        Raises:
            ServingError: If the server refuses or does not answer.
        """
        outputs = self._send(self._transport.encode(signature, {name: _array(value) for name, value in inputs.items()}))
        return {name: _with_text(array, name) for name, array in outputs.items()}

    def close(self):
        """Close all connections."""
        self._transport.close()

    def __enter__(self):
        """Nothing to open."""
        return self

    def __exit__(self, *exception):
        """Close."""
        self.close()

    def _call_in_parts(self, signature, inputs):
        """`call` for inputs whose first axis is the batch: split where too large, and joined in order."""
        rows = len(next(iter(inputs.values())))
        row_bytes = sum(map(self._transport.wire_bytes, inputs.values())) / rows
        step = max(1, min(self._max_rows, int(self._max_bytes / row_bytes)))
        parts = [
            self.call(signature, {name: array[start : start + step] for name, array in inputs.items()})
            for start in range(0, rows, step)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _send(self, request):
        deadline = time.monotonic() + self.timeout
        for attempt in range(self._attempts):
            remaining = deadline - time.monotonic()
            # Half of it is chance, so that many clients of a server that restarts do not come back all at once.
            wait = min(_FIRST_WAIT * 2**attempt, _LONGEST_WAIT) * random.uniform(0.5, 1.0)
            try:
                return self._transport.send(request, remaining)
            except ServingError as error:
                is_last = attempt == self._attempts - 1 or time.monotonic() + wait >= deadline
                if error.code != "UNAVAILABLE" or is_last:
                    raise
            time.sleep(wait)
        raise AssertionError("unreachable: the last attempt returns or raises")


def _connect(target, model, version):
    parts = urlsplit(target if "://" in target else f"grpc://{target}")
    try:
        has_port = parts.port is not None
    except ValueError:  # not a number, or out of range
        has_port = False
    if parts.scheme not in ("grpc", "http", "https") or not parts.hostname or (parts.scheme == "grpc" and not has_port):
        raise ValueError(
            f'target must be "host:port" or "grpc://host:port" for gRPC, or "http://host:port" or "https://host:port" '
            f"for REST; got {target!r}."
        )
    is_local = parts.hostname in ("localhost", "::1") or parts.hostname.startswith("127.")
    if parts.scheme == "grpc":
        from clustr_keras.serving.grpc_transport import GrpcTransport

        return GrpcTransport(parts.netloc, model, version, is_local)
    from clustr_keras.serving.rest_transport import RestTransport

    return RestTransport(target, model, version, is_local)


def _images(images):
    images = np.asarray(images)
    if images.ndim != 4 or not images.shape[0]:
        raise ValueError(
            f"images must have shape [B, H, W, C] with at least one image; got shape {list(images.shape)}. "
            "For a single image pass images[None]."
        )
    if images.dtype.kind != "f":
        raise ValueError(f"images must be floats in [0, 1]; got {images.dtype}. Divide 8-bit pixels by 255.0 first.")
    return images.astype(np.float32, copy=False)


def _array(value):
    array = np.asarray(value)
    array = array.astype(object) if array.dtype.kind in "US" else array
    if array.dtype == object and not all(isinstance(item, str | bytes) for item in array.ravel()):
        raise ValueError("inputs must be arrays of numbers, booleans or strings; got an array of other Python objects.")
    return array


def _with_text(array, name):
    """Decode strings, but not binary ones, and not what turns out to be binary."""
    if array.dtype != object or name.endswith("_bytes"):
        return array
    try:
        text = [value.decode() for value in array.ravel()]
    except UnicodeDecodeError:
        return array
    return np.array(text, dtype=str).reshape(array.shape)
