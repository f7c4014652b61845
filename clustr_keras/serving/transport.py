"""What both clients ask of a protocol."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from clustr_keras.serving.retries import Deadline
from clustr_keras.types import Floats


class Requests(Protocol):
    """Makes the requests to one model. Each says how its answer is read."""

    def row_bytes(self, array: np.ndarray) -> Floats:
        """About how many bytes each row of an array takes in a request."""

    def predict(self, signature: str, inputs: Mapping[str, np.ndarray]) -> Any:
        """Run a signature: answers name to array, strings as object arrays of `bytes`."""

    def signatures(self) -> Any:
        """Ask for the signatures: answers name to `SignatureInfo`."""

    def versions(self) -> Any:
        """Ask for the state of the versions: answers a list of `VersionStatus`."""


class MakesRequests(Protocol):
    """What the transports of both clients have in common."""

    @property
    def requests(self) -> Requests:
        """Makes the requests that `send` takes."""


class Transport(MakesRequests, Protocol):
    """Sends requests, and waits."""

    def send(self, request: Any, deadline: Deadline, metadata: dict[str, str]) -> Any:
        """Send once; returns what the request says that its answer is."""

    def close(self) -> None:
        """Close all connections."""


class AsyncTransport(MakesRequests, Protocol):
    """The same for asyncio; `requests` are there once `open` was awaited."""

    async def open(self) -> None:
        """Load what is needed."""

    async def send(self, request: Any, deadline: Deadline, metadata: dict[str, str]) -> Any:
        """As `Transport.send`."""

    async def close(self) -> None:
        """Close all connections."""
