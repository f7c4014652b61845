"""Requests over REST, for asyncio. Imports neither TensorFlow nor Keras."""

import asyncio
from typing import Any

import httpx

from clustr_keras.serving.endpoint import Endpoint, ModelChoice
from clustr_keras.serving.rest_requests import RestRequest, RestRequests, read_json
from clustr_keras.serving.rest_transport import build, http_errors, http_options
from clustr_keras.serving.retries import Deadline


class AsyncRestTransport:
    """One pool of connections to a server, of one event loop.

    Args:
        endpoint: An `Endpoint`.
        model: A `ModelChoice`.

    Attributes:
        requests: Makes the requests that `send` takes.
    """

    def __init__(self, endpoint: Endpoint, model: ModelChoice) -> None:
        self.requests = RestRequests(endpoint, model)
        self._http = httpx.AsyncClient(**http_options(endpoint))

    async def open(self) -> None:
        """Nothing to load."""

    async def send(self, request: RestRequest, deadline: Deadline, metadata: dict[str, str]) -> Any:
        """As `RestTransport.send`; `deadline` limits all of it."""
        exchange = self.requests.exchange(request)
        answer: dict[str, Any] | None = None
        while True:
            try:
                step = exchange.send(answer)
            except StopIteration as end:
                return end.value
            answer = await self._fetch(step, deadline, metadata)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _fetch(self, request, deadline, metadata):
        with http_errors(request, deadline):
            async with asyncio.timeout(deadline.remaining()):
                response = await self._http.send(build(self._http, request, deadline, metadata))
        return read_json(request, response)
