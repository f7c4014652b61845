"""KerasTuner's oracles, made to outlive workers that die, trials that fail, and a kill at any moment."""

import collections
import math
import time
from typing import Any

import keras_tuner
from keras_tuner.engine.trial import Trial
from keras_tuner.oracles import BayesianOptimizationOracle, HyperbandOracle, RandomSearchOracle

from clustr_keras.progress import say

SILENCE = 120.0
"""Seconds without a word from a worker, after which it is taken for dead. A living one reports every `tuners.BEAT`."""

_LOSSES = 2  # A trial that cost so many workers is not given to another.
_FAILURES = 3  # After so many in a row the settings are not what is wrong.
_ENDED = ("COMPLETED", "FAILED")


class EnduringOracle(keras_tuner.Oracle):
    """What is added to each of KerasTuner's oracles.

    A worker that has been silent for `SILENCE` seconds is dropped, and its trial is run by another. So workers that
    find no trial left wait while others are still at theirs.

    Args:
        **kwargs: Of the oracle.

    Attributes:
        has_given_up: Whether the last three trials failed one after the other, so that no more are begun.
    """

    def __init__(self, **kwargs: Any) -> None:
        # KerasTuner raises an error at three failures, with its lock held, and at each later trial once more.
        super().__init__(max_consecutive_failed_trials=math.inf, **kwargs)
        self.has_given_up = False
        self._ended_before = 0
        self._heard: dict[str, float] = {}  # worker -> when
        self._losses: collections.Counter[str] = collections.Counter()  # trial -> workers

    def reload(self) -> None:
        """Reads the state on disk, wherever between two of its files a kill came."""
        super().reload()
        # A trial that the oracle's own file does not know was never begun, and is drawn once more.
        begun = {name: trial for name, trial in self.trials.items() if name in self.start_order}
        self.trials: dict[str, Trial] = begun
        ended = [name for name, trial in self.trials.items() if trial.status in _ENDED]
        self.end_order += [name for name in ended if name not in self.end_order]
        self._ended_before = len(self.end_order)
        self._retry_queue: list[str] = []
        for name in reversed(self.start_order):  # the first one is taken first, from the end
            if name not in ended:
                self._queue(name)

    @keras_tuner.synchronized
    def create_trial(self, tuner_id: str) -> Trial:
        """Gives a worker a trial, or says that there is none now (`"IDLE"`) or at all (`"STOPPED"`)."""
        self._heard[tuner_id] = time.monotonic()
        if self.has_given_up and tuner_id not in self.ongoing_trials:
            self.tuner_ids.discard(tuner_id)
            return Trial(self.get_space(), status="STOPPED")
        trial = super().create_trial(tuner_id)
        if trial.status == "STOPPED" and self.ongoing_trials:
            self.tuner_ids.add(tuner_id)
            trial.status = "IDLE"
        return trial

    @keras_tuner.synchronized
    def get_trial(self, trial_id: str) -> Trial:
        """A trial. Who asks for it is the worker that runs it: asking is how it shows that it lives."""
        for tuner_id, trial in self.ongoing_trials.items():
            if trial.trial_id == trial_id:
                self._heard[tuner_id] = time.monotonic()
        return super().get_trial(trial_id)

    @keras_tuner.synchronized
    def end_trial(self, trial: Trial) -> None:
        """Takes the end of a trial; of one that a worker back from the dead and another have run, the first end."""
        if trial.trial_id in self.end_order:
            return
        super().end_trial(trial)
        self._retry_queue = [name for name in self._retry_queue if name != trial.trial_id]
        last = [self.trials[name].status for name in self.end_order[self._ended_before :]][-_FAILURES:]
        self.has_given_up = last == ["FAILED"] * _FAILURES

    @keras_tuner.synchronized
    def drop_silent(self) -> None:
        """Drops workers that have been silent for too long, and puts their trials back into the queue."""
        now = time.monotonic()
        for tuner_id in [name for name in self.tuner_ids if now - self._heard[name] > SILENCE]:
            self.tuner_ids.discard(tuner_id)
            trial = self.ongoing_trials.pop(tuner_id, None)
            if trial is None:
                continue
            self._losses[trial.trial_id] += 1
            if self._losses[trial.trial_id] < _LOSSES:
                say(f"Worker {tuner_id} is lost; another one will run its trial {trial.trial_id}.")
                self._queue(trial.trial_id)
            else:
                say(f"Worker {tuner_id} is lost, as was one before it, with trial {trial.trial_id}, which has failed.")
                trial.status, trial.message = "FAILED", f"{_LOSSES} workers were lost with it."
                self.end_order.append(trial.trial_id)
                self._save_trial(trial)
            self.save()

    def _queue(self, trial_id):
        trial = self.trials[trial_id]
        trial.metrics, trial.score = type(trial.metrics)(), None  # of a run that did not end
        self._retry_queue.append(trial_id)


class RandomSearch(EnduringOracle, RandomSearchOracle):
    """Settings at random."""


class BayesianOptimization(EnduringOracle, BayesianOptimizationOracle):
    """Settings where a Gaussian process expects the most."""


class Hyperband(EnduringOracle, HyperbandOracle):
    """Many short trials, of which the best go on."""
