"""What both protocols do with a request to predict."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from clustr_keras.serving.batching import Batcher, BatchingParameters
from clustr_keras.serving.errors import ServingError
from clustr_keras.serving.loaded_model import LoadedModel
from clustr_keras.serving.model_config import ModelConfig
from clustr_keras.serving.model_stores import ModelStores
from clustr_keras.serving.monitoring import Metrics

Answer = TypeVar("Answer")

# Messages are read and written here: the event loop only moves bytes.
_CODEC_THREADS = 2


class Predictor:
    """Finds models, reads requests, runs them in batches, and counts them, within bounds.

    Args:
        configs: A `ModelConfig` for each model.
        batching: `BatchingParameters`.
        max_request_bytes: Largest request, and largest input tensor.
        max_bytes_under_way: Largest sum of all requests that are read, wait or run.

    Attributes:
        stores: The `ModelStores`.
        metrics: The `Metrics`.
        max_request_bytes, max_bytes_under_way: As given.
        bytes_under_way: Integer, at present.
    """

    def __init__(
        self,
        configs: Sequence[ModelConfig],
        batching: BatchingParameters,
        max_request_bytes: int,
        max_bytes_under_way: int,
    ) -> None:
        self.stores = ModelStores(configs)
        self.metrics = Metrics(self.stores.names)
        self.max_request_bytes = max_request_bytes
        self._batching = batching
        self.max_bytes_under_way = max_bytes_under_way
        self.bytes_under_way = 0

    @contextlib.contextmanager
    def threads(self) -> Iterator[None]:
        """Holds the threads that `predict` needs; waits for them at the end."""
        with (
            ThreadPoolExecutor(_CODEC_THREADS, "clustr-codec") as self._codec,
            contextlib.closing(Batcher(self._batching, self.metrics)) as self._batcher,
        ):
            yield

    @contextlib.contextmanager
    def room(self) -> "Iterator[Room]":
        """Holds memory for one request: yields a `Room`, which is given back at the end."""
        room = Room(self)
        try:
            yield room
        finally:
            self.bytes_under_way -= room.held

    async def predict(
        self,
        choice: tuple[str, int | None, str | None],
        labels: tuple[str, str],
        read: Callable[[LoadedModel], Sequence[Any]],
        write: Callable[..., Answer],
        timeout: float | None,
    ) -> Answer:
        """Answer one request.

        Args:
            choice: Name, version and label of the model, as `ModelStores.find` takes them.
            labels: Names of the API and of the entry point, for the metrics.
            read: From a `LoadedModel` to a `Call` and what else `write` needs; runs on a thread.
            write: From the model, the outputs and what `read` gave to the answer; runs on a thread.
            timeout: Seconds that the request may wait for its turn, or `None`.

        Returns:
            What `write` returns.

        Raises:
            ServingError: If the request is refused, or the model objects.
        """
        run = asyncio.get_running_loop().run_in_executor
        with self.metrics.request(choice[0], *labels):
            model = self.stores.find(*choice)
            call, *rest = await run(self._codec, read, model)
            outputs = await self._batcher.run(model, call, timeout)
            return await run(self._codec, write, model, call, outputs, *rest)


class Room:
    """The memory of one request, taken as it is needed.

    Args:
        predictor: A `Predictor`.

    Attributes:
        held: Bytes taken.
        size: Bytes of the request so far.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self.held = self.size = 0

    def take(self, size: int, cost: int = 1) -> None:
        """Takes room for a number of bytes that have come.

        Args:
            size: Bytes of the request.
            cost: How many bytes each of them will take in memory.

        Raises:
            ServingError: RESOURCE_EXHAUSTED if the request is too large; UNAVAILABLE if too much is under way.
        """
        self.size += size
        self.check(self.size)
        under_way = self._predictor.bytes_under_way
        # A request that is alone is read, whatever it costs.
        if under_way > self.held and under_way + size * cost > self._predictor.max_bytes_under_way:
            raise ServingError("UNAVAILABLE", "too many requests are under way. Try again later.")
        self.held += size * cost
        self._predictor.bytes_under_way += size * cost

    def check(self, size: int) -> None:
        """Refuses a request of a size in bytes.

        Raises:
            ServingError: RESOURCE_EXHAUSTED, if it is too large.
        """
        limit = self._predictor.max_request_bytes
        if size > limit:
            raise ServingError(
                "RESOURCE_EXHAUSTED",
                f"the request is larger than {limit} bytes. Send fewer examples at a time.",
                http_status=413,
            )
