import asyncio
import concurrent.futures
import contextlib
import threading

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from clustr_keras.serving import AsyncClient, ServingError


class Embedder(prediction_service_pb2_grpc.PredictionServiceServicer):  # calls `before` with the first pixel
    def __init__(self, before):
        self.before = before
        self.under_way = set()
        self.most_under_way = 0

    def Predict(self, request, context):  # noqa: N802
        images = tf.make_ndarray(request.inputs["images"])
        self.under_way.add(context)
        self.most_under_way = max(self.most_under_way, len(self.under_way))
        self.before(int(images[0, 0, 0, 0]), context)
        self.under_way.remove(context)
        response = predict_pb2.PredictResponse()
        response.outputs["embeddings"].CopyFrom(tf.make_tensor_proto(images[:, 0, 0]))
        response.outputs["is_valid"].CopyFrom(tf.make_tensor_proto(np.ones(len(images), bool)))
        return response


@contextlib.contextmanager
def serving(before):
    pool = concurrent.futures.ThreadPoolExecutor(16)
    server, service = grpc.server(pool), Embedder(before)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", service
    finally:
        server.stop(None).wait()
        pool.shutdown()


IMAGES = np.arange(8, dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 2, 1), np.float32)


def target_of(server, protocol):
    return server.grpc_target if protocol == "grpc" else server.rest_url


def test_parts_are_under_way_together_and_no_more_than_allowed():
    together = threading.Barrier(4)  # nobody passes alone

    async def main(target):
        async with AsyncClient(target, max_rows=1, max_in_flight=4) as client:
            return await client.embed(IMAGES)

    with serving(lambda pixel, context: together.wait(30)) as (target, service):
        answer = asyncio.run(main(target))
    assert answer.embeddings.ravel().tolist() == list(range(8))
    assert service.most_under_way == 4


def test_answers_are_in_order_when_the_first_part_comes_last():
    last_came = threading.Event()

    def before(pixel, context):
        if pixel == 7:
            last_came.set()
        if pixel == 0:
            assert last_came.wait(30)

    async def main(target):
        async with AsyncClient(target, max_rows=1, max_in_flight=2) as client:
            return await client.embed(IMAGES)

    with serving(before) as (target, _):
        assert asyncio.run(main(target)).embeddings.ravel().tolist() == list(range(8))


def test_when_one_part_fails_the_others_are_given_up():
    first_came, given_up = threading.Event(), threading.Event()

    def before(pixel, context):
        if pixel == 0:
            context.add_callback(given_up.set)
            first_came.set()
            assert given_up.wait(30)
        if pixel == 1:
            assert first_came.wait(30)
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not this one")

    async def main(target):
        async with AsyncClient(target, max_rows=1, max_in_flight=2, timeout=60) as client:
            with pytest.raises(ServingError, match="not this one"):
                await client.embed(IMAGES)
            assert await asyncio.to_thread(given_up.wait, 30)
            assert len(asyncio.all_tasks()) == 1

    with serving(before) as (target, _):
        asyncio.run(main(target))


def test_a_call_that_is_cancelled_gives_up_its_requests():
    came, given_up = threading.Event(), threading.Event()

    def before(pixel, context):
        context.add_callback(given_up.set)
        came.set()
        assert given_up.wait(30)

    async def main(target):
        async with AsyncClient(target, timeout=60) as client:
            call = asyncio.create_task(client.embed(IMAGES))
            assert await asyncio.to_thread(came.wait, 30)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await asyncio.to_thread(given_up.wait, 30)

    with serving(before) as (target, _):
        asyncio.run(main(target))


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_tasks_that_share_a_client_get_their_own_answers(toy_server, protocol):
    client = AsyncClient(target_of(toy_server, protocol), model="toy")  # outside of any event loop

    async def query(i):
        x = np.arange(i, i + 1 + i % 5, dtype=np.float32)
        if i % 7 == 0:
            with pytest.raises(ServingError, match="INVALID_ARGUMENT"):
                await client.call("serving_default", {"x": x[None]})
        np.testing.assert_array_equal((await client.call("serving_default", {"x": x}))["y"], x / 2 + 3)

    async def main():
        async with client:
            await asyncio.gather(*map(query, range(40)))

    asyncio.run(main())


@pytest.mark.parametrize("target", ["localhost:1", "http://localhost:1"])
def test_a_client_that_was_not_used_can_be_closed(target):
    async def main():
        async with AsyncClient(target):
            pass

    asyncio.run(main())


@pytest.mark.parametrize("target", ["localhost:1", "http://localhost:1"])
def test_arguments_are_checked_before_anything_is_sent(target):
    async def main():
        async with AsyncClient(target) as client:
            with pytest.raises(ValueError, match="images must have shape"):
                await client.predict(IMAGES[0])
            with pytest.raises(ValueError, match="timeout must be greater than 0"):
                await client.versions(timeout=0)

    asyncio.run(main())
