import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from clustr_keras.serving.errors import ServingError
from clustr_keras.serving.monitoring import Metrics


def samples(metrics):
    """(name, labels without their order) to value."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.page().decode())
        for sample in family.samples
    }


def value(metrics, name, **labels):
    return samples(metrics)[f":tensorflow:serving:{name}", frozenset(labels.items())]


def test_requests_are_counted_by_how_they_end():
    metrics = Metrics(["clustr"])
    for _ in range(3):
        with metrics.request("clustr", "Predict", "GRPC"):
            pass
    for error in (ServingError("NOT_FOUND", ""), ServingError("NOT_FOUND", ""), ZeroDivisionError()):
        with pytest.raises(type(error)), metrics.request("clustr", "predict", "REST"):
            raise error
    assert value(metrics, "request_count", model_name="clustr", status="OK") == 3
    assert value(metrics, "request_count", model_name="clustr", status="NOT_FOUND") == 2
    assert value(metrics, "request_count", model_name="clustr", status="INTERNAL") == 1
    assert value(metrics, "request_latency_count", model_name="clustr", API="Predict", entrypoint="GRPC") == 3
    assert b"_total" not in metrics.page()


def test_names_that_callers_make_up_are_counted_together():
    metrics = Metrics(["clustr"])
    for name in ("a", "b", 'c"\n'):
        with pytest.raises(ServingError), metrics.request(name, "Predict", "GRPC"):
            raise ServingError("NOT_FOUND", "")
    assert value(metrics, "request_count", model_name="", status="NOT_FOUND") == 3


def test_histograms_are_microseconds_in_growing_buckets():
    metrics = Metrics(["clustr"])
    for seconds in (5e-6, 15e-6, 1.0):
        metrics.ran("clustr", seconds)
    labels = {"model_name": "clustr", "API": "Predict", "runtime": "TF1"}
    assert value(metrics, "runtime_latency_sum", **labels) == pytest.approx(1e6 + 20)
    assert value(metrics, "runtime_latency_count", **labels) == 3
    buckets = [value(metrics, "runtime_latency_bucket", le=le, **labels) for le in ("10", "18", "708235", "+Inf")]
    assert buckets == [1, 2, 2, 3]


def test_waiting_is_recorded():
    metrics = Metrics(["clustr"])
    metrics.queued(2e-3)
    assert value(metrics, "batching_session:queuing_latency_count", thread_pool_name="clustr-batch") == 1


def test_threads_lose_no_count():
    metrics = Metrics(["clustr"])

    def count():
        for _ in range(500):
            metrics.ran("clustr", 1e-3)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value(metrics, "runtime_latency_count", model_name="clustr", API="Predict", runtime="TF1") == 2000
