"""Client: predictions with their certificates from any TensorFlow Serving that holds one of our exports.

    what is asked, and the answer's type        queries.py, results.py, model_description.py
    batches as requests of bounded size         splitting.py
    where, which model, with which rights       endpoint.py, tls.py, call_options.py
    how long, how often                         retries.py
    gRPC                                        grpc_requests.py, grpc_transport.py, async_grpc_transport.py
    REST                                        rest_requests.py, rest_transport.py, async_rest_transport.py
    the same for asyncio                        async_client.py

Both clients and all transports make and read the same requests; each of them only adds its way of waiting.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Self

import numpy as np

from clustr_keras.serving import queries
from clustr_keras.serving.base_client import BaseClient
from clustr_keras.serving.endpoint import Endpoint, ModelChoice
from clustr_keras.serving.errors import ServingError
from clustr_keras.serving.model_description import SignatureInfo, VersionStatus
from clustr_keras.serving.results import Certification, Embedding, Prediction, RadiusCheck
from clustr_keras.serving.transport import Transport
from clustr_keras.types import ArrayLike


class Client(BaseClient):
    """Queries a model over gRPC or REST.

    Connections are made with the first request and kept. One client may be used from many threads. The REST client
    imports neither TensorFlow nor Keras; the gRPC client imports TensorFlow with its first request.

    Every method that asks the server takes `timeout` and `metadata` for that call.

    Args:
        target: `"host:port"` or `"grpc://host:port"` for gRPC, `"grpcs://host:port"` for gRPC over TLS;
            `"http://host:port"` or `"https://host:port"` for REST.
        model: The model's name.
        version: Its version, an integer; by default the server chooses, which is the newest unless configured.
        timeout: Seconds that one request may take, retries included; a batch that is split takes several. Over REST it
            limits each step of one: connecting, each write, each read.
        label: A version label of the server's configuration, `"stable"` for example, in place of `version`.
        metadata: Name to text, sent with every request: gRPC metadata, or HTTP headers. What a call brings comes on
            top. It is readable on the way unless the target is encrypted.
        ca_certificate: Path of a PEM file with the authorities that the server's certificate may come from, for
            grpcs and https; by default the public ones.
        client_certificate: Pair of paths, a PEM certificate and its PEM key, for servers that ask for one.
        max_rows: Most examples in one request; larger batches are split.
        max_bytes: Largest request, approximately; larger batches are split.
        attempts: How often a request is sent in all while the server is UNAVAILABLE. Other errors are never retried.

    Raises:
        ValueError: If an argument is out of range, `target` is of no known form, `version` and `label` are both
            given, or certificates come with a target that is not encrypted.
        OSError: If a certificate cannot be read.

    Example:
    >>> with Client("localhost:8500") as client:
    ...     answer = client.predict(images)
    >>> answer.class_names, answer.certified_radius
    (array(['7', '2']), array([0.81, 0.47], dtype=float32))

    Behind a gateway, with a private authority and a token:

    >>> client = Client(
    ...     "grpcs://models.example.org:443",
    ...     label="stable",
    ...     ca_certificate="ca.pem",
    ...     metadata={"authorization": f"Bearer {token}"},
    ... )
    """

    _transport: Transport

    def predict(
        self,
        images: ArrayLike,
        signature: str = "serving_default",
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Prediction:
        """Classify images.

        Args:
            images: Floats `[B, H, W, C]` in [0, 1], of the model's size.
            signature: Name of a signature with the inputs and outputs of `serving_default`.
            timeout: Seconds that one request may take; the client's by default.
            metadata: Name to text, on top of the client's.

        Returns:
            A `Prediction`.

        Raises:
            ValueError: If `images` is not a batch of float images.
            ServingError: If the server refuses or does not answer.
        """
        return self._ask(queries.predict(images, signature), timeout, metadata)

    def certify(
        self, images: ArrayLike, *, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> Certification:
        """Classify images, with all that the certificate rests on.

        Args:
            images, timeout, metadata: As for `predict`.

        Returns:
            A `Certification`.

        Raises:
            ValueError, ServingError: As `predict`.
        """
        return self._ask(queries.certify(images), timeout, metadata)

    def certify_at(
        self,
        images: ArrayLike,
        radius: ArrayLike,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> RadiusCheck:
        """Whether each prediction is certified at a radius.

        Args:
            images, timeout, metadata: As for `predict`.
            radius: A float for all, or floats `[B]`, in input units. A negative or non-finite one certifies nothing.

        Returns:
            A `RadiusCheck`.

        Raises:
            ValueError, ServingError: As `predict`; ValueError also for a `radius` of another shape.
        """
        return self._ask(queries.certify_at(images, radius), timeout, metadata)

    def certify_encoded(
        self, files: Iterable[bytes], *, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> Certification:
        """Classify images as they lie on disk; the server decodes them, and says which it could not.

        Args:
            files: List of `bytes`, each a PNG or JPEG image.
            timeout, metadata: As for `predict`.

        Returns:
            A `Certification`; the radius is that of the decoded image.

        Raises:
            ValueError: If `files` is not a list of at least one `bytes`.
            ServingError: As `predict`.

        Example:
        >>> client.certify_encoded([path.read_bytes() for path in pathlib.Path("photos").glob("*.png")]).class_names
        array(['cat', 'ship'])
        """
        return self._ask(queries.certify_encoded(files), timeout, metadata)

    def embed(
        self, images: ArrayLike, *, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> Embedding:
        """Embeddings of images.

        Args:
            images, timeout, metadata: As for `predict`.

        Returns:
            An `Embedding`.

        Raises:
            ValueError, ServingError: As `predict`.
        """
        return self._ask(queries.embed(images), timeout, metadata)

    def call(
        self,
        signature: str,
        inputs: Mapping[str, ArrayLike],
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> dict[str, np.ndarray]:
        """Run any signature of any model, in one request.

        Args:
            signature: Its name.
            inputs: Name to array, of the signature's dtypes; strings as `str` or `bytes`.
            timeout, metadata: As for `predict`.

        Returns:
            Name to array. Strings are `str`, those of outputs whose name ends in `_bytes` are `bytes`.

        Raises:
            ValueError: If an input holds other Python objects.
            ServingError: As `predict`.
        """
        return self._ask(queries.call(signature, inputs), timeout, metadata)

    def signatures(
        self, *, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> dict[str, SignatureInfo]:
        """The signatures of the model, with names, dtypes and shapes of what they take and give.

        Args:
            timeout, metadata: As for `predict`.

        Returns:
            A dictionary, name to `SignatureInfo`.

        Raises:
            ServingError: As `predict`.

        Example:
        >>> client.signatures()["certify"].inputs["images"].shape
        (None, 32, 32, 3)
        """
        return self._send(self._transport.requests.signatures(), *self._options(timeout, metadata))

    def versions(
        self, *, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> list[VersionStatus]:
        """The state of the model's versions: of all, or of the one that this client asks for.

        Args:
            timeout, metadata: As for `predict`.

        Returns:
            A list of `VersionStatus`, in the server's order.

        Raises:
            ServingError: As `predict`.

        Example:
        >>> [(status.version, status.state) for status in client.versions()]
        [(3, 'AVAILABLE'), (2, 'END')]
        """
        return self._send(self._transport.requests.versions(), *self._options(timeout, metadata))

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        """Nothing to open."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self.close()

    def _connect(self, endpoint: Endpoint, model: ModelChoice) -> Transport:
        if endpoint.protocol == "grpc":
            from clustr_keras.serving.grpc_transport import GrpcTransport

            return GrpcTransport(endpoint, model)
        from clustr_keras.serving.rest_transport import RestTransport

        return RestTransport(endpoint, model)

    def _ask(self, query, timeout, metadata):
        options = self._options(timeout, metadata)
        answers = [self._send(self._request(query, part), *options) for part in self._parts(query)]
        return query.result(answers)

    def _send(self, request, timeout, metadata):
        deadline, retries = self._begin(timeout)
        while True:
            try:
                return self._transport.send(request, deadline, metadata)
            except ServingError as error:
                wait = retries.wait_after(error)
                if wait is None:
                    raise
            time.sleep(wait)
