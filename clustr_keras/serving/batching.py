"""Requests of many callers run together, within bounds on what may wait."""

import asyncio
import collections
import concurrent.futures
import itertools
import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from clustr_keras.serving.errors import ServingError
from clustr_keras.serving.monitoring import Metrics

if TYPE_CHECKING:
    from clustr_keras.serving.loaded_model import Call, LoadedModel


@dataclass(frozen=True)
class BatchingParameters:
    """How requests are batched, under the names of ModelServer's `--batching_parameters_file`.

    Args:
        max_batch_size: Most examples that run together. A larger request is split.
        batch_timeout_micros: How long a request waits for company while a thread is idle. With 0 batches form only
            while all threads are busy, so that an idle server answers at once.
        max_enqueued_batches: How many full batches may wait. Beyond that requests are UNAVAILABLE.
        num_batch_threads: How many batches run at a time. TensorFlow uses further threads within each.

    Raises:
        ValueError: If one is out of range.
    """

    max_batch_size: int = 256
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 100
    num_batch_threads: int = 2

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name, least in (
            ("max_batch_size", 1),
            ("batch_timeout_micros", 0),
            ("max_enqueued_batches", 1),
            ("num_batch_threads", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}.")


@dataclass(eq=False)
class _Task:
    """A call, or a part of one, that waits for a thread."""

    call: "Call"
    inputs: dict[str, np.ndarray]
    cost: int  # examples, or a whole batch for a call that runs alone
    answer: asyncio.Future
    arrived: float = field(default_factory=time.monotonic)
    is_waiting: bool = True
    parts: list["_Task"] = field(default_factory=list)  # of the same call


class Batcher:
    """Runs checked calls on threads, those of the same kind together.

    Calls are of a kind if model, signature, and the shapes of one example agree. Each was checked before, so one caller
    cannot spoil the answer of another; should a batch fail all the same, its calls run again one by one. All methods
    are for one event loop.

    Args:
        parameters: `BatchingParameters`.
        metrics: `Metrics`, which learns how long calls wait and run.
    """

    def __init__(self, parameters: BatchingParameters, metrics: Metrics) -> None:
        self.parameters = parameters
        self._metrics = metrics
        self._threads = concurrent.futures.ThreadPoolExecutor(parameters.num_batch_threads, "clustr-batch")
        self._idle = parameters.num_batch_threads
        # By model and kind.
        self._waiting: dict[tuple[LoadedModel, Hashable], collections.deque[_Task]] = {}
        self._cost = 0  # of all that wait
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, model: "LoadedModel", call: "Call", timeout: float | None = None) -> dict[str, np.ndarray]:
        """Run a call, with others if there are any.

        Args:
            model: `LoadedModel`.
            call: What its `prepare` made of a request.
            timeout: Seconds that the call may wait for a thread, or `None`.

        Returns:
            Name to array, for the outputs wanted.

        Raises:
            ServingError: UNAVAILABLE if too much is waiting; RESOURCE_EXHAUSTED if the call is larger than all that may
                wait, or its time passed before it ran; otherwise as `LoadedModel.execute`.
        """
        parts = self._parts(call)
        self._check_room(sum(cost for _, cost in parts))
        loop = asyncio.get_running_loop()
        tasks = [_Task(call, inputs, cost, loop.create_future()) for inputs, cost in parts]
        timer = None if timeout is None else loop.call_later(timeout, _expire, tasks)
        try:
            for task in tasks:
                task.parts = tasks
                self._enqueue(model, task)
            self._dispatch()
            answers = await asyncio.gather(*(task.answer for task in tasks))
        finally:
            if timer is not None:
                timer.cancel()
            for task in tasks:
                task.answer.cancel()  # the other parts of a call that failed or was given up
        if len(answers) == 1:
            return answers[0]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in call.wanted}

    def close(self) -> None:
        """Wait for the threads."""
        self._threads.shutdown()

    def _parts(self, call):
        """Inputs and cost of each part of a call that is no larger than a batch."""
        limit = self.parameters.max_batch_size
        if call.rows is None:
            return [(call.inputs, limit)]
        if call.rows <= limit:
            return [(call.inputs, max(1, call.rows))]  # none is for nothing, or any number of empty ones could wait
        return [
            ({name: array[i : i + limit] for name, array in call.inputs.items()}, min(limit, call.rows - i))
            for i in range(0, call.rows, limit)
        ]

    def _check_room(self, cost):
        room = self.parameters.max_batch_size * self.parameters.max_enqueued_batches
        if cost > room:
            raise ServingError(
                "RESOURCE_EXHAUSTED", f"{cost} examples in one request; the limit is {room}.", http_status=413
            )
        if self._cost + cost > room:
            raise ServingError("UNAVAILABLE", "the queue is full. Try again later.")

    def _enqueue(self, model, task):
        key = (model, _kind(task))
        queue = self._waiting.setdefault(key, collections.deque())
        queue.append(task)
        self._cost += task.cost
        # Given up, or out of time: it leaves the queue.
        task.answer.add_done_callback(lambda _: self._leave(task))

    def _leave(self, task):
        """Counts a task no longer. It stays where it is in its queue, as a stub: to look for it would take time."""
        if task.is_waiting:
            task.is_waiting = False
            self._cost -= task.cost

    def _drop_stubs(self):
        for key, queue in list(self._waiting.items()):
            while queue and not queue[0].is_waiting:
                queue.popleft()
            if not queue:
                del self._waiting[key]

    def _dispatch(self):
        """Start batches as long as there are threads and calls that have waited long enough."""
        self._drop_stubs()
        while self._idle and self._waiting:
            key = min(self._waiting, key=lambda key: self._waiting[key][0].arrived)
            wait = self._waiting[key][0].arrived + self.parameters.batch_timeout_micros / 1e6 - time.monotonic()
            if wait > 0:
                # None has waited long enough; a full batch need not wait.
                full = next(filter(self._is_full, self._waiting), None)
                if full is None:
                    self._dispatch_again(wait)
                    return
                key = full
            self._start(key[0], self._next_batch(key))
            self._drop_stubs()

    def _dispatch_again(self, wait):
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(wait, self._dispatch)

    def _is_full(self, key):
        return sum(task.cost for task in self._waiting[key] if task.is_waiting) >= self.parameters.max_batch_size

    def _next_batch(self, key):
        batch, queue, room = [], self._waiting[key], self.parameters.max_batch_size
        while queue and queue[0].cost <= room:
            task = queue.popleft()
            if task.is_waiting:
                self._leave(task)
                batch.append(task)
                room -= task.cost
        return batch

    def _start(self, model, batch):
        self._idle -= 1
        done = asyncio.get_running_loop().run_in_executor(self._threads, self._run_batch, model, batch)
        done.add_done_callback(lambda done: self._finish(batch, done))

    def _finish(self, batch, done):
        self._idle += 1
        error = done.exception()
        for task, answer in zip(batch, [error] * len(batch) if error else done.result(), strict=True):
            if task.answer.done():
                continue
            if isinstance(answer, Exception):
                task.answer.set_exception(answer)
                for part in task.parts:  # before the next batch starts: nobody waits for them now
                    self._leave(part)
            else:
                task.answer.set_result(answer)
        self._dispatch()

    def _run_batch(self, model, batch):
        """On a thread: the outputs of each task, or its error."""
        start = time.monotonic()
        for task in batch:
            self._metrics.queued(start - task.arrived)
        try:
            answers = _execute_together(model, batch)
        except Exception as error:
            answers = [error] if len(batch) == 1 else [_execute_alone(model, task) for task in batch]
        self._metrics.ran(model.name, time.monotonic() - start)
        return answers


def _kind(task):
    """What calls must agree in to run together; nothing else agrees with a call that runs alone."""
    if task.call.rows is None:
        return task
    return task.call.signature_name, *((name, array.shape[1:]) for name, array in sorted(task.inputs.items()))


def _execute_together(model, batch):
    name = batch[0].call.signature_name
    if len(batch) == 1:
        return [batch[0].call.only_wanted(model.execute(name, batch[0].inputs))]
    inputs = {key: np.concatenate([task.inputs[key] for task in batch]) for key in batch[0].inputs}
    outputs = model.execute(name, inputs)
    rows = [len(next(iter(task.inputs.values()))) for task in batch]
    ends = list(itertools.accumulate(rows))
    if any(len(array) != ends[-1] for array in outputs.values()):
        raise ValueError("the outputs of a batch have other lengths than its inputs")
    return [
        task.call.only_wanted({key: array[end - count : end] for key, array in outputs.items()})
        for task, count, end in zip(batch, rows, ends, strict=True)
    ]


def _execute_alone(model, task):
    try:
        return task.call.only_wanted(model.execute(task.call.signature_name, task.inputs))
    except Exception as error:
        return error


def _expire(tasks):
    for task in tasks:
        if task.is_waiting and not task.answer.done():
            task.answer.set_exception(
                ServingError("RESOURCE_EXHAUSTED", "the request's time passed while it waited in the queue.")
            )
