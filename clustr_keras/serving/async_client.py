"""AsyncClient: `Client` for asyncio."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np

from clustr_keras.serving import queries
from clustr_keras.serving.base_client import BaseClient
from clustr_keras.serving.endpoint import Endpoint, ModelChoice
from clustr_keras.serving.errors import ServingError
from clustr_keras.serving.model_description import SignatureInfo, VersionStatus
from clustr_keras.serving.results import Certification, Embedding, Prediction, RadiusCheck
from clustr_keras.serving.transport import AsyncTransport
from clustr_keras.types import ArrayLike


class AsyncClient(BaseClient):
    """Queries a model over gRPC or REST, without blocking the event loop.

    The methods are those of `Client`, to be awaited. The parts of a batch that is split are under way at the same
    time, and joined in order; if one of them fails, the others are given up.

    Connections are made with the first request and kept. One client may be used by many tasks of one event loop. The
    REST client imports neither TensorFlow nor Keras; the gRPC client imports TensorFlow with its first request, in a
    thread.

    Args:
        target, model, version, timeout: As for `Client`; `timeout` limits all of a request over REST too.
        max_in_flight: Most parts of one batch that are under way at a time.
        **options: The other arguments of `Client`.

    Raises:
        ValueError, OSError: As `Client`.

    Example:
    >>> async with AsyncClient("http://localhost:8501") as client:
    ...     answers = await asyncio.gather(client.predict(images), client.embed(images))
    """

    _transport: AsyncTransport

    def __init__(
        self,
        target: str,
        model: str = "clustr",
        version: int | None = None,
        timeout: float = 10.0,
        *,
        max_in_flight: int = 4,
        **options: Any,
    ) -> None:
        if not max_in_flight >= 1:
            raise ValueError(f"max_in_flight must be at least 1; got {max_in_flight}.")
        super().__init__(target, model, version, timeout, **options)
        self._max_in_flight = max_in_flight

    async def predict(
        self,
        images: ArrayLike,
        signature: str = "serving_default",
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Prediction:
        """Classify images: `Client.predict`."""
        return await self._ask(queries.predict(images, signature), timeout, metadata)

    async def certify(
        self, images: ArrayLike, *, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> Certification:
        """Classify images, with all that the certificate rests on: `Client.certify`."""
        return await self._ask(queries.certify(images), timeout, metadata)

    async def certify_at(
        self,
        images: ArrayLike,
        radius: ArrayLike,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> RadiusCheck:
        """Whether each prediction is certified at a radius: `Client.certify_at`."""
        return await self._ask(queries.certify_at(images, radius), timeout, metadata)

    async def certify_encoded(
        self, files: Iterable[bytes], *, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> Certification:
        """Classify images as they lie on disk: `Client.certify_encoded`."""
        return await self._ask(queries.certify_encoded(files), timeout, metadata)

    async def embed(
        self, images: ArrayLike, *, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> Embedding:
        """Embeddings of images: `Client.embed`."""
        return await self._ask(queries.embed(images), timeout, metadata)

    async def call(
        self,
        signature: str,
        inputs: Mapping[str, ArrayLike],
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> dict[str, np.ndarray]:
        """Run any signature of any model, in one request: `Client.call`."""
        return await self._ask(queries.call(signature, inputs), timeout, metadata)

    async def signatures(
        self, *, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> dict[str, SignatureInfo]:
        """The signatures of the model: `Client.signatures`."""
        options = self._options(timeout, metadata)
        await self._transport.open()
        return await self._send(self._transport.requests.signatures(), *options)

    async def versions(
        self, *, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> list[VersionStatus]:
        """The state of the model's versions: `Client.versions`."""
        options = self._options(timeout, metadata)
        await self._transport.open()
        return await self._send(self._transport.requests.versions(), *options)

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        """Nothing to open."""
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Close."""
        await self.close()

    def _connect(self, endpoint: Endpoint, model: ModelChoice) -> AsyncTransport:
        if endpoint.protocol == "grpc":
            from clustr_keras.serving.async_grpc_transport import AsyncGrpcTransport

            return AsyncGrpcTransport(endpoint, model)
        from clustr_keras.serving.async_rest_transport import AsyncRestTransport

        return AsyncRestTransport(endpoint, model)

    async def _ask(self, query, timeout, metadata):
        options = self._options(timeout, metadata)
        await self._transport.open()

        async def answer(part):
            return await self._send(self._request(query, part), *options)

        return query.result(await _in_order(answer, self._parts(query), self._max_in_flight))

    async def _send(self, request, timeout, metadata):
        deadline, retries = self._begin(timeout)
        while True:
            try:
                return await self._transport.send(request, deadline, metadata)
            except ServingError as error:
                wait = retries.wait_after(error)
                if wait is None:
                    raise
            await asyncio.sleep(wait)


async def _in_order(work, items, limit):
    """`[await work(item) for item in items]`, with up to `limit` of them under way at a time."""
    results = [None] * len(items)
    numbered = iter(enumerate(items))

    async def worker():
        for number, item in numbered:  # shared: each item goes to whichever worker is free first
            results[number] = await work(item)

    workers = [asyncio.create_task(worker()) for _ in range(min(limit, len(items)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return results
