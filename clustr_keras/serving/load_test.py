"""How much load a server takes: many callers, each of which asks again as soon as it has its answer."""

import asyncio
import collections
import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from clustr_keras.serving.async_client import AsyncClient
from clustr_keras.serving.endpoint import Endpoint
from clustr_keras.serving.errors import ServingError
from clustr_keras.serving.queries import as_images
from clustr_keras.types import ArrayLike, Floats

if TYPE_CHECKING:
    import rich.table

# No run is longer than this, whatever was asked for.
_MOST_REQUESTS = 10_000_000
_MOST_SECONDS = 3600.0
_MOST_CALLERS = 1024


@dataclasses.dataclass(frozen=True)
class LoadTestResult:
    """What a load test measured.

    Throughput and latency are those of answered requests, as their callers see them: encoding and decoding count.

    Attributes:
        target, model, signature, batch_size, concurrency: As they were asked for.
        requests: How many were sent.
        seconds: From the first of them to the last answer.
        requests_per_second, images_per_second: Answered ones.
        p50_ms, p95_ms, p99_ms: Quantiles of the latency in milliseconds; None if nothing was answered.
        errors: gRPC code to how many requests failed with it.
    """

    target: str
    model: str
    signature: str
    batch_size: int
    concurrency: int
    requests: int
    seconds: float
    requests_per_second: float
    images_per_second: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    errors: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """All of it in types that JSON knows; `name` is the model's, as in other commands' JSON."""
        return {"name" if key == "model" else key: value for key, value in dataclasses.asdict(self).items()}

    def table(self) -> "rich.table.Table":
        """A `rich.table.Table` of it."""
        import rich.table

        table = rich.table.Table("load test", "", title=f"{self.model} at {self.target}")
        table.add_row("signature", self.signature)
        table.add_row("callers x images", f"{self.concurrency} x {self.batch_size}")
        table.add_row("requests", f"{self.requests} in {self.seconds:.2f} s")
        table.add_row("throughput", f"{self.requests_per_second:.1f} requests/s, {self.images_per_second:.1f} images/s")
        for name in ("p50", "p95", "p99"):
            latency = getattr(self, f"{name}_ms")
            table.add_row(f"latency, {name}", "-" if latency is None else f"{latency:.2f} ms")
        table.add_row("errors", ", ".join(f"{code} {count}" for code, count in self.errors.items()) or "none")
        return table


def run_load_test(
    target: str,
    images: ArrayLike,
    *,
    model: str = "clustr",
    signature: str = "serving_default",
    batch_size: int = 1,
    concurrency: int = 8,
    requests: int = 1000,
    seconds: float = 10.0,
    warmup: int = 2,
    timeout: float = 10.0,
    allow_remote: bool = False,
    **client_options: Any,
) -> LoadTestResult:
    """Asks a server as fast as it answers, for a limited time.

    Each of `concurrency` callers sends a request, waits for its answer and sends the next. Nothing is sent twice: an
    UNAVAILABLE is counted. One request before all others finds out whether the server can answer at all.

    Args:
        target: As for `Client`.
        images: Floats `[N, H, W, C]`, of which each request takes the next ones, from the start again after the last.
        model: The model's name.
        signature: Name of a signature whose only input is `images`.
        batch_size: Images in a request.
        concurrency: Callers.
        requests: Most requests in all.
        seconds: No request is sent later than this after the first; those under way are waited for.
        warmup: Requests of each caller that come before and do not count: connections are made, caches filled. They
            take no longer than `seconds` either.
        timeout: Seconds that one request may take; one that takes longer is an error.
        allow_remote: Whether `target` may be another machine.
        **client_options: Further arguments of `Client`: `version` or `label`, `metadata`, `ca_certificate`,
            `client_certificate`.

    Returns:
        A `LoadTestResult`.

    Raises:
        ValueError: If an argument is out of range, or `target` is not on this machine and `allow_remote` is false.
        ServingError: If the first request fails.
        RuntimeError: If called from within an event loop.

    Example:
    >>> result = run_load_test("localhost:8500", images, batch_size=64, concurrency=4, seconds=30.0)
    >>> result.images_per_second, result.p99_ms
    (5120.3, 61.7)
    """
    _check_range("batch_size", batch_size, 1, math.inf)
    _check_range("concurrency", concurrency, 1, _MOST_CALLERS)
    _check_range("requests", requests, 1, _MOST_REQUESTS)
    _check_range("seconds", seconds, 1e-3, _MOST_SECONDS)
    _check_range("warmup", warmup, 0, _MOST_REQUESTS)
    certificates = {name: client_options.get(name) for name in ("ca_certificate", "client_certificate")}
    if not (allow_remote or Endpoint.parse(target, **certificates).is_local):
        raise ValueError(
            f"a load test is for servers on this machine; got target {target!r}. Pass allow_remote=True "
            "(--allow-remote) if you may put load on that one."
        )
    if _is_in_event_loop():
        raise RuntimeError(
            "run_load_test cannot run within an event loop, such as a notebook's. Use await "
            "asyncio.to_thread(run_load_test, ...)."
        )

    def client():
        return AsyncClient(target, model, timeout=timeout, attempts=1, **client_options)

    load = _Load(as_images(images), signature, batch_size)
    elapsed = asyncio.run(load.run(client, concurrency, requests, seconds, warmup))
    answered = len(load.latencies)
    p50_ms, p95_ms, p99_ms = _quantiles_ms(load.latencies)
    return LoadTestResult(
        target=target,
        model=model,
        signature=signature,
        batch_size=batch_size,
        concurrency=concurrency,
        requests=answered + sum(load.errors.values()),
        seconds=elapsed,
        requests_per_second=answered / elapsed,
        images_per_second=answered * batch_size / elapsed,
        p50_ms=p50_ms,
        p95_ms=p95_ms,
        p99_ms=p99_ms,
        errors=dict(load.errors),
    )


class _Load:
    """Sends, and counts.

    Attributes:
        latencies: Seconds, of each answered request.
        errors: Code to count.
    """

    def __init__(self, images: Floats, signature: str, batch_size: int) -> None:
        self.latencies: list[float] = []
        self.errors: collections.Counter[str] = collections.Counter()
        self._images = images
        self._signature = signature
        self._rows = np.arange(batch_size)

    async def run(
        self, make_client: Callable[[], AsyncClient], concurrency: int, requests: int, seconds: float, warmup: int
    ) -> float:
        """All of it; returns the seconds that the counted part took."""
        async with contextlib.AsyncExitStack() as stack:
            # A client each, as callers elsewhere would have: one pool of connections shared by all would be in the way.
            clients = [await stack.enter_async_context(make_client()) for _ in range(concurrency)]
            await self._ask(clients[0], 0)
            await self._round(clients, concurrency * warmup, seconds)
            self.latencies.clear()
            self.errors.clear()
            start = time.perf_counter()
            await self._round(clients, requests, seconds)
            return time.perf_counter() - start

    async def _round(self, clients, requests, seconds):
        end = time.perf_counter() + seconds
        numbers = itertools.takewhile(lambda _: time.perf_counter() < end, range(requests))
        await asyncio.gather(*(self._caller(client, numbers) for client in clients))

    async def _caller(self, client, numbers):
        for number in numbers:  # shared by all callers
            start = time.perf_counter()
            try:
                await self._ask(client, number)
            except ServingError as error:
                self.errors[error.code] += 1
            else:
                self.latencies.append(time.perf_counter() - start)

    async def _ask(self, client, number):
        batch = self._images.take(self._rows + number * len(self._rows), axis=0, mode="wrap")
        await client.call(self._signature, {"images": batch})


def _quantiles_ms(latencies):
    if not latencies:
        return None, None, None
    return (1000 * np.quantile(latencies, [0.5, 0.95, 0.99])).tolist()


def _is_in_event_loop():
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _check_range(name, value, low, high):
    if not low <= value <= high:
        raise ValueError(f"{name} must lie in {low}..{high}; got {value}.")
