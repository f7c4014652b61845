"""Requests over gRPC, for asyncio."""

import asyncio
import functools
from typing import TYPE_CHECKING, Any

import grpc

from clustr_keras.serving.endpoint import Endpoint, ModelChoice
from clustr_keras.serving.grpc_transport import grpc_errors, open_channel
from clustr_keras.serving.retries import Deadline

if TYPE_CHECKING:
    from clustr_keras.serving.grpc_requests import GrpcRequest, GrpcRequests


class AsyncGrpcTransport:
    """One channel to a server, of the event loop that opens it.

    Args:
        endpoint: An `Endpoint`.
        model: A `ModelChoice`.

    Attributes:
        requests: Makes the requests that `send` takes, once `open` was awaited.
    """

    requests: "GrpcRequests"

    def __init__(self, endpoint: Endpoint, model: ModelChoice) -> None:
        self._open_channel = functools.partial(open_channel, grpc.aio, endpoint)
        self._model = model
        self._channel: grpc.aio.Channel | None = None

    async def open(self) -> None:
        """Load the message types, and make the channel."""
        if self._channel is not None:
            return
        # Importing TensorFlow takes seconds, in which the event loop has other things to do.
        grpc_requests = await asyncio.to_thread(_import_grpc_requests)
        if self._channel is None:  # nobody else was faster
            self._channel = self._open_channel()
            self._methods = grpc_requests.remote_methods(self._channel)
            self.requests = grpc_requests.GrpcRequests(self._model)

    async def send(self, request: "GrpcRequest", deadline: Deadline, metadata: dict[str, str]) -> Any:
        """As `GrpcTransport.send`."""
        method = self._methods[request.method]
        with grpc_errors():
            response = await method(request.message, timeout=deadline.remaining(), metadata=tuple(metadata.items()))
        return request.read(response)

    async def close(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            await self._channel.close()


def _import_grpc_requests():
    from clustr_keras.serving import grpc_requests

    return grpc_requests
