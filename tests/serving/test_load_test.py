import asyncio
import collections
import json

import numpy as np
import pytest
import rich

from clustr_keras.serving import ServingError, run_load_test
from clustr_keras.serving.async_client import AsyncClient

IMAGES = np.linspace(0, 1, 5, dtype=np.float32)[:, None, None, None] * np.ones((1, 4, 4, 1), np.float32)


@pytest.fixture
def sent(monkeypatch):
    calls, call = [], AsyncClient.call

    async def record(self, signature, inputs, **options):
        calls.append((signature, inputs["images"]))
        return await call(self, signature, inputs, **options)

    monkeypatch.setattr(AsyncClient, "call", record)
    return calls


@pytest.fixture(params=["grpc", "rest"])
def target(request, clustr_server):
    return clustr_server.grpc_target if request.param == "grpc" else clustr_server.rest_url


def test_a_load_of_so_many_requests(target, sent):
    result = run_load_test(
        target, IMAGES, signature="certify", batch_size=3, concurrency=4, requests=37, seconds=60, warmup=2
    )
    assert len(sent) == 1 + 4 * 2 + 37
    assert {signature for signature, _ in sent} == {"certify"}
    assert (result.requests, result.errors) == (37, {})
    np.testing.assert_allclose(result.requests_per_second * result.seconds, 37)
    np.testing.assert_allclose(result.images_per_second * result.seconds, 37 * 3)
    assert 0 < result.p50_ms <= result.p95_ms <= result.p99_ms <= 1000 * result.seconds
    # Little's law: 4 callers who never pause are 4 requests under way.
    assert result.p50_ms * 37 / 2 <= 4 * result.seconds * 1000


def test_requests_go_through_all_images_in_turn(clustr_server, sent):
    run_load_test(clustr_server.grpc_target, IMAGES, batch_size=3, concurrency=1, requests=4, warmup=0)
    pixels = np.concatenate([images[:, 0, 0, 0] for _, images in sent[1:]])
    np.testing.assert_array_equal(pixels, np.tile(IMAGES[:, 0, 0, 0], 3)[:12])


def test_a_load_of_so_many_seconds(target):
    result = run_load_test(target, IMAGES, concurrency=2, requests=1_000_000, seconds=0.2)
    assert 0 < result.requests < 1_000_000
    assert 0.2 <= result.seconds < 30


def test_errors_are_counted_by_code_and_not_asked_again(target, monkeypatch):
    call, numbers, refused = AsyncClient.call, iter(range(10**6)), collections.Counter()

    async def fail_at_times(self, *args, **options):
        number = next(numbers)
        if number and number % 3 == 0:
            code = "UNAVAILABLE" if number % 2 else "RESOURCE_EXHAUSTED"
            refused[code] += 1
            raise ServingError(code, "not now")
        return await call(self, *args, **options)

    monkeypatch.setattr(AsyncClient, "call", fail_at_times)
    result = run_load_test(target, IMAGES, concurrency=3, requests=30, warmup=0)
    assert result.errors == dict(refused)
    assert result.requests == 30
    np.testing.assert_allclose(result.requests_per_second * result.seconds, 30 - refused.total())


def test_a_server_that_answers_nothing_more(target, monkeypatch):
    call, numbers = AsyncClient.call, iter(range(10**6))

    async def fail(self, *args, **options):
        if next(numbers):
            raise ServingError("INTERNAL", "broken")
        return await call(self, *args, **options)

    monkeypatch.setattr(AsyncClient, "call", fail)
    result = run_load_test(target, IMAGES, requests=5)
    assert result.errors == {"INTERNAL": 5}
    assert (result.requests_per_second, result.p50_ms, result.p99_ms) == (0, None, None)
    assert json.loads(json.dumps(result.as_dict(), allow_nan=False)) == result.as_dict()
    rich.print(result.table())


def test_the_first_request_finds_out_whether_there_is_anything_to_measure(target):
    with pytest.raises(ServingError, match="NOT_FOUND"):
        run_load_test(target, IMAGES, model="other")
    with pytest.raises(ServingError, match="INVALID_ARGUMENT"):
        run_load_test(target, IMAGES[:, 1:])


def test_the_table_has_the_figures(clustr_server, capsys):
    result = run_load_test(clustr_server.grpc_target, IMAGES, batch_size=2, concurrency=3, requests=5)
    rich.print(result.table())
    text = capsys.readouterr().out
    for words in ("serving_default", "3 x 2", "5 in", f"{result.p95_ms:.2f} ms", "images/s", "none"):
        assert words in text


@pytest.mark.parametrize("target", ["example.org:8500", "https://10.0.0.7:443", "0.0.0.0:1", "127.0.0.1.example.org:1"])
def test_no_load_for_other_machines(target):
    with pytest.raises(ValueError, match=rf"this machine; got target '{target}'.*allow_remote=True"):
        run_load_test(target, IMAGES)


def test_a_load_for_another_machine_if_that_is_meant(clustr_server):
    elsewhere = clustr_server.grpc_target.replace("127.0.0.1", "0.0.0.0")  # which leads back here
    assert run_load_test(elsewhere, IMAGES, requests=2, allow_remote=True).errors == {}


@pytest.mark.parametrize(
    "options",
    [
        *({"requests": value} for value in (0, 10**9)),
        *({"seconds": value} for value in (0, np.inf, np.nan, 10**6)),
        *({"concurrency": value} for value in (0, 10**6)),
        {"batch_size": 0},
        {"warmup": -1},
        {"timeout": np.inf},
        {"version": 1, "label": "stable"},
    ],
    ids=str,
)
def test_no_load_without_bounds(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        run_load_test("localhost:1", IMAGES, **options)


def test_images_are_checked():
    with pytest.raises(ValueError, match=r"255\.0"):
        run_load_test("localhost:1", np.zeros((1, 4, 4, 1), np.uint8))


def test_within_an_event_loop_the_way_out_is_named():
    async def main():
        with pytest.raises(RuntimeError, match=r"asyncio\.to_thread\(run_load_test"):
            run_load_test("localhost:1", IMAGES)

    asyncio.run(main())
