"""Metrics for Prometheus, under the names that ModelServer gives them."""

import asyncio
import bisect
import contextlib
import itertools
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import HistogramMetricFamily, UnknownMetricFamily
from prometheus_client.registry import Collector

from clustr_keras.serving.errors import ServingError

METRICS_PATH = "/monitoring/prometheus/metrics"
_PREFIX = ":tensorflow:serving:"


class Metrics(Collector):
    """Counts requests and their times, and shows them as Prometheus reads them.

    Names, labels, units (microseconds) and buckets are those of ModelServer, so that its dashboards and alerts fit. The
    count of requests is shown untyped: a counter's name would have to end in `_total` here, which ModelServer's does
    not.

    Args:
        model_names: The names of the served models.
    """

    def __init__(self, model_names: Collection[str]) -> None:
        self._model_names = frozenset(model_names)
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._request_latency = _Histogram(10, 1.8, 33)
        self._runtime_latency = _Histogram(10, 1.8, 33)
        self._queuing_latency = _Histogram(100, 1.2, 52)
        self._registry = CollectorRegistry()
        self._registry.register(self)

    @contextlib.contextmanager
    def request(self, model_name: str, api: str, entrypoint: str) -> Iterator[None]:
        """Counts a request by how the block ends, and its time if it succeeds.

        Args:
            model_name: As the request has it.
            api, entrypoint: Labels, `"Predict"` and `"GRPC"` for example.
        """
        # Callers choose names freely, and each one shown would be kept for ever.
        name = model_name if model_name in self._model_names else ""
        start, status = time.monotonic(), "UNKNOWN"
        try:
            yield
            status = "OK"
        except ServingError as error:
            status = error.code
            raise
        except asyncio.CancelledError:  # the caller has left
            status = "CANCELLED"
            raise
        except Exception:
            status = "INTERNAL"
            raise
        finally:
            with self._lock:
                self._requests[name, status] += 1
                if status == "OK":
                    self._request_latency.add((name, api, entrypoint), time.monotonic() - start)

    def queued(self, seconds: float) -> None:
        """Records how long a request waited for a thread."""
        with self._lock:
            self._queuing_latency.add(("clustr-batch",), seconds)

    def ran(self, model_name: str, seconds: float) -> None:
        """Records how long a batch of a model ran."""
        with self._lock:
            self._runtime_latency.add((model_name, "Predict", "TF1"), seconds)

    def collect(self) -> list[Metric]:
        """The metrics, as `prometheus_client` wants them."""
        requests = UnknownMetricFamily(f"{_PREFIX}request_count", "Requests.", labels=("model_name", "status"))
        request_latency = HistogramMetricFamily(
            f"{_PREFIX}request_latency", "Microseconds of a request.", labels=("model_name", "API", "entrypoint")
        )
        runtime_latency = HistogramMetricFamily(
            f"{_PREFIX}runtime_latency", "Microseconds of a batch.", labels=("model_name", "API", "runtime")
        )
        queuing_latency = HistogramMetricFamily(
            f"{_PREFIX}batching_session:queuing_latency", "Microseconds in the queue.", labels=("thread_pool_name",)
        )
        with self._lock:
            for labels, count in self._requests.items():
                requests.add_metric(labels, count)
            self._request_latency.show(request_latency)
            self._runtime_latency.show(runtime_latency)
            self._queuing_latency.show(queuing_latency)
        return [requests, request_latency, runtime_latency, queuing_latency]

    def page(self) -> bytes:
        """The page that Prometheus fetches, `bytes`."""
        return generate_latest(self._registry)


class _Histogram:
    """Counts and sums of microseconds in buckets that grow by a factor, for each combination of labels."""

    def __init__(self, first: float, factor: float, count: int) -> None:
        self._limits = [first * factor**i for i in range(count)]
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: defaultdict[tuple[str, ...], float] = defaultdict(float)

    def add(self, labels: tuple[str, ...], seconds: float) -> None:
        micros = 1e6 * seconds
        counts = self._counts.setdefault(labels, [0] * (len(self._limits) + 1))
        counts[bisect.bisect_left(self._limits, micros)] += 1
        self._sums[labels] += micros

    def show(self, family: HistogramMetricFamily) -> None:
        names = [f"{limit:g}" for limit in self._limits] + ["+Inf"]
        for labels, counts in self._counts.items():
            buckets = list(zip(names, itertools.accumulate(counts), strict=True))
            family.add_metric(labels, buckets, self._sums[labels])
