"""Requests over REST. Imports neither TensorFlow nor Keras."""

import contextlib
import ssl
from collections.abc import Iterator
from typing import Any

import httpx

from clustr_keras.serving.endpoint import Endpoint, ModelChoice
from clustr_keras.serving.errors import ServingError
from clustr_keras.serving.rest_requests import RestRequest, RestRequests, read_json
from clustr_keras.serving.retries import Deadline


class RestTransport:
    """One pool of connections to a server.

    Args:
        endpoint: An `Endpoint`.
        model: A `ModelChoice`.

    Attributes:
        requests: Makes the requests that `send` takes.
    """

    def __init__(self, endpoint: Endpoint, model: ModelChoice) -> None:
        self.requests = RestRequests(endpoint, model)
        self._http = httpx.Client(**http_options(endpoint))

    def send(self, request: RestRequest, deadline: Deadline, metadata: dict[str, str]) -> Any:
        """Send once, and wait.

        Args:
            request: Of `requests`.
            deadline: A `Deadline`; what is left of it limits connecting, each write and each read.
            metadata: Name to text.

        Returns:
            What the request says that its answer is.

        Raises:
            ServingError: With the code of the server's HTTP status, or UNAVAILABLE or DEADLINE_EXCEEDED if it did not
                answer.
        """
        exchange = self.requests.exchange(request)
        answer: dict[str, Any] | None = None
        while True:
            try:
                step = exchange.send(answer)
            except StopIteration as end:
                return end.value
            answer = self._fetch(step, deadline, metadata)

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def _fetch(self, request, deadline, metadata):
        with http_errors(request, deadline):
            response = self._http.send(build(self._http, request, deadline, metadata))
        return read_json(request, response)


def http_options(endpoint: Endpoint) -> dict[str, Any]:
    """Arguments of `httpx.Client` and `httpx.AsyncClient` for a server."""
    # Without TLS a context that trusts nobody: httpx would load the public authorities, and take milliseconds for it.
    context = endpoint.tls.ssl_context if endpoint.tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return {
        "verify": context,
        "trust_env": not endpoint.is_local,  # on this machine no proxy can help
        # As many connections as there are callers at a time, kept for a while.
        "limits": httpx.Limits(keepalive_expiry=60.0),
    }


def build(
    http: httpx.Client | httpx.AsyncClient, request: RestRequest, deadline: Deadline, metadata: dict[str, str]
) -> httpx.Request:
    """The `httpx.Request` of a `RestRequest`."""
    headers = metadata if request.body is None else metadata | {"content-type": "application/json"}
    return http.build_request(
        request.method, request.url, content=request.body, headers=headers, timeout=deadline.remaining()
    )


@contextlib.contextmanager
def http_errors(request: RestRequest, deadline: Deadline) -> Iterator[None]:
    """Turns the errors of a request into `ServingError`."""
    try:
        yield
    except (httpx.TimeoutException, TimeoutError) as error:
        message = f"no answer from {request.url} in {deadline.seconds:.3g} s."
        raise ServingError("DEADLINE_EXCEEDED", message) from error
    except httpx.RequestError as error:
        raise ServingError("UNAVAILABLE", f"cannot reach {request.url}: {error}") from error
