import asyncio
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustr_keras.serving.batching import Batcher, BatchingParameters
from clustr_keras.serving.errors import ServingError
from clustr_keras.serving.loaded_model import Call
from clustr_keras.serving.monitoring import Metrics


class FakeModel:
    """Doubles `x`; records the sizes of its batches; waits at a gate; fails on a 13."""

    name = "m"

    def __init__(self, is_open=True):
        self.sizes = []
        self.entered, self.opened = threading.Event(), threading.Event()
        if is_open:
            self.opened.set()

    def execute(self, signature_name, inputs):
        self.entered.set()
        assert self.opened.wait(30)
        x = inputs["x"]
        self.sizes.append(x.shape[0] if x.ndim else None)
        if signature_name == "short":
            return {"y": x[:1]}
        if (x == 13).any():
            raise ServingError("INVALID_ARGUMENT", "13")
        return {"y": 2 * x, "z": -x}


def call(values, rows="all", signature_name="double", wanted=("y", "z")):
    x = np.float32(values)
    return Call(signature_name, {"x": x}, list(wanted), len(x) if rows == "all" else rows)


def batcher(**parameters):
    return Batcher(BatchingParameters(**parameters), Metrics(["m"]))


async def after_a_blocker(model, batches, calls, **options):
    """The results of calls that were all waiting when the only thread came free."""
    blocker = asyncio.create_task(batches.run(model, call([0])))
    await asyncio.to_thread(model.entered.wait, 30)
    waiting = [asyncio.create_task(batches.run(model, each, **options)) for each in calls]
    await asyncio.sleep(0)  # lets each reach the queue
    model.opened.set()
    await blocker
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert model.sizes.pop(0) == 1
    return answers


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


def test_a_call_alone_runs_at_once():
    model = FakeModel()
    outputs = run(batcher().run(model, call([1, 2])))
    assert {name: array.tolist() for name, array in outputs.items()} == {"y": [2, 4], "z": [-1, -2]}
    assert model.sizes == [2]


def test_calls_that_wait_run_together_and_each_gets_its_own_rows():
    model = FakeModel(is_open=False)
    calls = [call([1, 2]), call([3]), call([]), call([4, 5, 6])]
    answers = run(after_a_blocker(model, batcher(num_batch_threads=1), calls))
    assert [answer["y"].tolist() for answer in answers] == [[2, 4], [6], [], [8, 10, 12]]
    assert model.sizes == [6]


def test_only_what_was_wanted_comes_back():
    model = FakeModel(is_open=False)
    calls = [call([1], wanted=["y"]), call([2], wanted=["z"])]
    answers = run(after_a_blocker(model, batcher(num_batch_threads=1), calls))
    assert [(list(answer), next(iter(answer.values())).tolist()) for answer in answers] == [(["y"], [2]), (["z"], [-2])]


def test_a_batch_has_at_most_its_size():
    model = FakeModel(is_open=False)
    calls = [call([1, 2]), call([3, 4]), call([5, 6])]
    answers = run(after_a_blocker(model, batcher(num_batch_threads=1, max_batch_size=5), calls))
    assert [answer["y"].tolist() for answer in answers] == [[2, 4], [6, 8], [10, 12]]
    assert model.sizes == [4, 2]


def test_calls_of_another_kind_run_apart():
    model, other = FakeModel(is_open=False), FakeModel()
    calls = [call([1]), call([[1, 2]]), call([3], signature_name="other"), call([4])]

    async def main():
        batches = batcher(num_batch_threads=1)
        elsewhere = None

        async def all_of_them():
            nonlocal elsewhere
            elsewhere = asyncio.create_task(batches.run(other, call([7])))
            return await after_a_blocker(model, batches, calls)

        answers = await all_of_them()
        return answers, await elsewhere

    answers, elsewhere = run(main())
    assert [answer["y"].tolist() for answer in answers] == [[2], [[2, 4]], [6], [8]]
    assert elsewhere["y"].tolist() == [14]
    assert sorted(model.sizes) == [1, 1, 2]


def test_a_call_without_a_batch_axis_runs_alone():
    model = FakeModel(is_open=False)
    calls = [call(3, rows=None), call(4, rows=None)]
    answers = run(after_a_blocker(model, batcher(num_batch_threads=1), calls))
    assert [answer["y"].tolist() for answer in answers] == [6, 8]
    assert model.sizes == [None, None]


def test_an_error_in_a_batch_is_its_callers_alone():
    model = FakeModel(is_open=False)
    answers = run(after_a_blocker(model, batcher(num_batch_threads=1), [call([1]), call([13]), call([2])]))
    assert answers[0]["y"].tolist() == [2]
    assert answers[1].code == "INVALID_ARGUMENT"
    assert answers[2]["y"].tolist() == [4]


def test_outputs_that_do_not_follow_the_batch_are_computed_one_by_one():
    model = FakeModel(is_open=False)
    calls = [call([1], signature_name="short", wanted=["y"]), call([2], signature_name="short", wanted=["y"])]
    answers = run(after_a_blocker(model, batcher(num_batch_threads=1), calls))
    assert [answer["y"].tolist() for answer in answers] == [[1], [2]]


@settings(deadline=None, max_examples=50)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=8),
    max_batch_size=st.integers(1, 7),
    num_batch_threads=st.integers(1, 3),
    timeout=st.sampled_from([0, 300]),
)
def test_any_calls_in_any_batches_are_answered_as_if_alone(sizes, max_batch_size, num_batch_threads, timeout):
    model = FakeModel()
    values = [np.arange(size) + 100 * i for i, size in enumerate(sizes)]

    async def main():
        batches = batcher(
            max_batch_size=max_batch_size, num_batch_threads=num_batch_threads, batch_timeout_micros=timeout
        )
        return await asyncio.gather(*(batches.run(model, call(each)) for each in values))

    for each, answer in zip(values, run(main()), strict=True):
        np.testing.assert_array_equal(answer["y"], 2 * each)
    assert all(size <= max_batch_size for size in model.sizes)


def test_a_part_that_fails_fails_the_call_and_frees_the_rest():
    model = FakeModel()

    async def main():
        batches = batcher(max_batch_size=2, num_batch_threads=1)
        with pytest.raises(ServingError, match="13"):
            await batches.run(model, call([1, 13, 3, 4, 5, 6]))
        return await batches.run(model, call([1]))

    assert run(main())["y"].tolist() == [2]
    assert sum(model.sizes) == 3  # the parts that waited were never run


def test_a_full_queue_is_unavailable_and_drains():
    model = FakeModel(is_open=False)
    parameters = {"num_batch_threads": 1, "max_batch_size": 2, "max_enqueued_batches": 2}
    answers = run(after_a_blocker(model, batcher(**parameters), [call([1, 2]), call([3, 4]), call([5])]))
    assert [answer["y"].tolist() for answer in answers[:2]] == [[2, 4], [6, 8]]
    assert (answers[2].code, answers[2].http_status) == ("UNAVAILABLE", 503)


def test_empty_calls_take_room_too():
    model = FakeModel(is_open=False)
    parameters = {"num_batch_threads": 1, "max_batch_size": 1, "max_enqueued_batches": 2}
    answers = run(after_a_blocker(model, batcher(**parameters), [call([]), call([]), call([])]))
    assert [answer["y"].tolist() for answer in answers[:2]] == [[], []]
    assert answers[2].code == "UNAVAILABLE"


def test_an_answer_that_cannot_be_given_hinders_nobody():
    model = FakeModel(is_open=False)
    calls = [call([1]), call([2], wanted=["nope"]), call([3])]
    answers = run(after_a_blocker(model, batcher(num_batch_threads=1), calls))
    assert [answers[0]["y"].tolist(), answers[2]["y"].tolist()] == [[2], [6]]
    assert isinstance(answers[1], KeyError)


def test_many_who_leave_take_no_time_and_leave_room():
    model = FakeModel(is_open=False)

    async def main():
        batches = batcher(num_batch_threads=1, max_batch_size=100, max_enqueued_batches=100)
        blocker = asyncio.create_task(batches.run(model, call([0])))
        await asyncio.to_thread(model.entered.wait, 30)
        for _ in range(3):
            leaving = [asyncio.create_task(batches.run(model, call([1]))) for _ in range(9000)]
            await asyncio.sleep(0)
            for task in leaving:
                task.cancel()
            await asyncio.gather(*leaving, return_exceptions=True)
        model.opened.set()
        await blocker
        return await batches.run(model, call([2]))

    assert run(main())["y"].tolist() == [4]
    assert model.sizes == [1, 1]


def test_a_call_larger_than_the_queue_is_refused_for_good():
    batches = batcher(max_batch_size=2, max_enqueued_batches=2)
    with pytest.raises(ServingError, match="5 examples in one request; the limit is 4") as caught:
        run(batches.run(FakeModel(), call(range(5))))
    assert (caught.value.code, caught.value.http_status) == ("RESOURCE_EXHAUSTED", 413)


def test_a_deadline_that_passes_in_the_queue_is_resource_exhausted_and_makes_room():
    model = FakeModel(is_open=False)

    async def main():
        batches = batcher(num_batch_threads=1, max_batch_size=1, max_enqueued_batches=1)
        blocker = asyncio.create_task(batches.run(model, call([0])))
        await asyncio.to_thread(model.entered.wait, 30)
        with pytest.raises(ServingError, match="waited in the queue") as caught:
            await batches.run(model, call([1]), timeout=0.01)
        next_one = asyncio.create_task(batches.run(model, call([2])))
        await asyncio.sleep(0)
        model.opened.set()
        await blocker
        return caught.value, await next_one

    error, answer = run(main())
    assert (error.code, error.http_status) == ("RESOURCE_EXHAUSTED", 429)
    assert answer["y"].tolist() == [4]
    assert model.sizes == [1, 1]


def test_a_deadline_that_passes_while_a_call_runs_changes_nothing():
    model = FakeModel(is_open=False)

    async def main():
        running = asyncio.create_task(batcher().run(model, call([1]), timeout=0))
        await asyncio.to_thread(model.entered.wait, 30)
        model.opened.set()
        return await running

    assert run(main())["y"].tolist() == [2]


def test_a_caller_who_leaves_takes_the_call_along():
    model = FakeModel(is_open=False)

    async def main():
        batches = batcher(num_batch_threads=1)
        blocker = asyncio.create_task(batches.run(model, call([0])))
        await asyncio.to_thread(model.entered.wait, 30)
        leaving, staying = (asyncio.create_task(batches.run(model, call([value]))) for value in (1, 2))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        model.opened.set()
        await blocker
        return await staying

    assert run(main())["y"].tolist() == [4]
    assert model.sizes == [1, 1]


def test_with_a_timeout_calls_wait_for_company_until_the_batch_is_full():
    model = FakeModel()

    async def main():
        batches = batcher(batch_timeout_micros=60_000_000, max_batch_size=3)
        return await asyncio.gather(*(batches.run(model, call([value])) for value in (1, 2, 3)))

    assert [answer["y"].tolist() for answer in run(main())] == [[2], [4], [6]]
    assert model.sizes == [3]


def test_with_a_timeout_calls_do_not_wait_for_ever():
    model = FakeModel()
    assert run(batcher(batch_timeout_micros=1000).run(model, call([1])))["y"].tolist() == [2]


@pytest.mark.parametrize(
    "parameters",
    [{"max_batch_size": 0}, {"batch_timeout_micros": -1}, {"max_enqueued_batches": 0}, {"num_batch_threads": 0}],
)
def test_parameters_out_of_range(parameters):
    (name,) = parameters
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        BatchingParameters(**parameters)
