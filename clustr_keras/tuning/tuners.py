"""KerasTuner's tuners on our oracles: alone, as the chief, or as a worker that shows that it lives."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import keras_tuner
from keras_tuner.engine.trial import Trial

from clustr_keras.progress import say

BEAT = 10.0
"""Seconds between two signs of life of a worker, and between two looks of the chief."""

_PAUSE = 1.0  # Seconds before a worker asks again that was told to wait; by itself it asks without a rest.


class Tuner(keras_tuner.Tuner):
    """Runs each trial from its start to its end."""

    _was_idle = False

    def search(self, *args: Any, **kwargs: Any) -> None:
        """Runs the trials, or hands them out as the chief."""
        is_chief = "KERASTUNER_ORACLE_IP" in os.environ and "chief" in self.tuner_id
        with repeatedly(self.oracle.drop_silent, BEAT) if is_chief else contextlib.nullcontext():
            super().search(*args, **kwargs)

    def run_trial(self, trial: Trial, *args: Any, **kwargs: Any) -> Any:
        """Runs a trial; of a worker the chief hears meanwhile."""
        with repeatedly(lambda: self._report(trial), BEAT) if is_worker(self) else contextlib.nullcontext():
            return super().run_trial(trial, *args, **kwargs)

    def pre_create_trial(self) -> None:
        """Waits before asking again for a trial, where there was none."""
        if self._was_idle:
            time.sleep(_PAUSE)
        self._was_idle = True

    def on_trial_begin(self, trial: Trial) -> None:
        """Notes that there was one."""
        self._was_idle = False
        super().on_trial_begin(trial)

    def on_trial_end(self, trial: Trial) -> None:
        """Hands in the trial, and says why if it failed: the chief is not told."""
        if trial.status != "COMPLETED" and trial.message:
            say(f"Trial {trial.trial_id} failed: {last_line(trial.message)}")
        super().on_trial_end(trial)

    def _report(self, trial):
        with contextlib.suppress(grpc.RpcError):  # which the trial's own calls will meet
            self.oracle.get_trial(trial.trial_id)


class HyperbandTuner(Tuner, keras_tuner.Hyperband):
    """Goes on with a trial where an earlier one has stopped."""

    def __init__(self, oracle: keras_tuner.Oracle, **kwargs: Any) -> None:
        # That of Hyperband makes an oracle, and does nothing else.
        keras_tuner.Tuner.__init__(self, oracle=oracle, **kwargs)


def is_worker(tuner: keras_tuner.Tuner) -> bool:
    """Whether a tuner works for a chief, by flag or by environment: then its oracle is a client of the chief's."""
    return not isinstance(tuner.oracle, keras_tuner.Oracle)


def last_line(message: str) -> str:
    """The line of a traceback that says what happened."""
    return message.strip().splitlines()[-1]


@contextlib.contextmanager
def repeatedly(call: Callable[[], None], seconds: float) -> Iterator[None]:
    """Calls a function every so many seconds, on a thread of its own, within the block."""
    done = threading.Event()

    def run():
        while not done.wait(seconds):
            call()

    threading.Thread(target=run, daemon=True).start()
    try:
        yield
    finally:
        done.set()
