"""What `Client` and `AsyncClient` share: everything but waiting for the server."""

import os
from collections.abc import Mapping

import numpy as np

from clustr_keras.serving.call_options import check_metadata, check_timeout
from clustr_keras.serving.endpoint import Endpoint, ModelChoice
from clustr_keras.serving.retries import Deadline, Retries
from clustr_keras.serving.splitting import split
from clustr_keras.serving.transport import MakesRequests


class BaseClient:
    """Arguments of a client, checked; batches as requests.

    A subclass names its transports, and waits.

    Args:
        target, model, version, timeout, label, metadata, ca_certificate, client_certificate, max_rows, max_bytes,
            attempts: As for `Client`.
    """

    def __init__(
        self,
        target: str,
        model: str = "clustr",
        version: int | None = None,
        timeout: float = 10.0,
        *,
        label: str | None = None,
        metadata: Mapping[str, str] | None = None,
        ca_certificate: str | os.PathLike[str] | None = None,
        client_certificate: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
        max_rows: int = 1024,
        max_bytes: int = 16 * 2**20,
        attempts: int = 3,
    ) -> None:
        for what, value in (("max_rows", max_rows), ("max_bytes", max_bytes), ("attempts", attempts)):
            if not value >= 1:
                raise ValueError(f"{what} must be at least 1; got {value}.")
        self.timeout = check_timeout(timeout)
        self._metadata = check_metadata(metadata)
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._attempts = attempts
        choice = ModelChoice(model, version, label)
        self._transport = self._connect(Endpoint.parse(target, ca_certificate, client_certificate), choice)

    def _connect(self, endpoint: Endpoint, model: ModelChoice) -> MakesRequests:
        """The transport for an endpoint's protocol; nothing is sent yet."""
        raise NotImplementedError

    def _parts(self, query):
        """Inputs of the requests that a query takes: views, as large as the limits allow."""
        if not query.is_batch:
            return [query.inputs]
        bytes_of_rows = np.sum([self._transport.requests.row_bytes(array) for array in query.inputs.values()], axis=0)
        return list(split(query.inputs, bytes_of_rows, self._max_rows, self._max_bytes))

    def _request(self, query, part):
        """The request for one part. Made when it is its turn: only those under way take memory."""
        return self._transport.requests.predict(query.signature, part)

    def _options(self, timeout, metadata):
        """Timeout and metadata of one call: its own before the client's."""
        return (
            self.timeout if timeout is None else check_timeout(timeout),
            self._metadata | check_metadata(metadata),
        )

    def _begin(self, timeout):
        """Deadline and retries of one request."""
        deadline = Deadline(timeout)
        return deadline, Retries(self._attempts, deadline)
