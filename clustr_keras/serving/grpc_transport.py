"""Requests over gRPC. The message types import TensorFlow, so they load with the first request."""

import contextlib
import functools
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import grpc

from clustr_keras.serving.endpoint import Endpoint, ModelChoice
from clustr_keras.serving.errors import ServingError
from clustr_keras.serving.retries import Deadline

if TYPE_CHECKING:
    from clustr_keras.serving.grpc_requests import GrpcRequest, GrpcRequests


class GrpcTransport:
    """One channel to a server.

    Args:
        endpoint: An `Endpoint`.
        model: A `ModelChoice`.
    """

    def __init__(self, endpoint: Endpoint, model: ModelChoice) -> None:
        self._model = model
        self._channel = open_channel(grpc, endpoint)  # it connects with the first request

    @functools.cached_property
    def requests(self) -> "GrpcRequests":
        """Makes the requests that `send` takes."""
        from clustr_keras.serving.grpc_requests import GrpcRequests

        return GrpcRequests(self._model)

    @functools.cached_property
    def _methods(self):
        from clustr_keras.serving.grpc_requests import remote_methods

        return remote_methods(self._channel)

    def send(self, request: "GrpcRequest", deadline: Deadline, metadata: dict[str, str]) -> Any:
        """Send once, and wait.

        Args:
            request: Of `requests`.
            deadline: A `Deadline`.
            metadata: Name to text.

        Returns:
            What the request says that its answer is.

        Raises:
            ServingError: With the server's code, or UNAVAILABLE or DEADLINE_EXCEEDED if it did not answer.
        """
        method = self._methods[request.method]
        with grpc_errors():
            response = method(request.message, timeout=deadline.remaining(), metadata=tuple(metadata.items()))
        return request.read(response)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


def open_channel(api: ModuleType, endpoint: Endpoint) -> grpc.Channel | grpc.aio.Channel:
    """A channel to a server, not connected yet.

    Args:
        api: `grpc` or `grpc.aio`.
        endpoint: An `Endpoint`.

    Returns:
        A channel.
    """
    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),  # the server knows its limit and says so
        ("grpc.enable_http_proxy", 0 if endpoint.is_local else 1),  # on this machine no proxy can help
        # A retry within the same second must find a channel that tries again too.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
    ]
    if endpoint.tls is None:
        return api.insecure_channel(endpoint.address, options=options)
    return api.secure_channel(endpoint.address, endpoint.tls.grpc_credentials(), options=options)


@contextlib.contextmanager
def grpc_errors() -> Iterator[None]:
    """Turns the errors of a call into `ServingError`."""
    try:
        yield
    except grpc.RpcError as error:
        raise ServingError(error.code().name, error.details() or "") from error
