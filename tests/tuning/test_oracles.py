import copy

import keras_tuner
import pytest
from support.trials import end

from clustr_keras.tuning import make_objective, oracles


@pytest.fixture
def oracle(tmp_path):
    """An oracle without a hypermodel."""
    hp = keras_tuner.HyperParameters()
    hp.Float("x", 0.0, 1.0)
    oracle = oracles.RandomSearch(objective=make_objective("certified"), max_trials=2, hyperparameters=hp, seed=1)
    keras_tuner.engine.base_tuner.BaseTuner(oracle, directory=str(tmp_path), project_name="search")
    oracle.verbose = 0
    return oracle


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(oracles.time, "monotonic", lambda: now[0])
    return now


def test_a_worker_that_reports_keeps_its_trial(oracle, clock):
    trial = oracle.create_trial("a")
    for clock[0] in range(0, 1000, 100):
        oracle.get_trial(trial.trial_id)
        oracle.drop_silent()
    assert oracle.ongoing_trials["a"] is trial


def test_the_trial_of_a_silent_worker_is_run_by_another_who_waited_for_it(oracle, clock):
    lost, other = copy.copy(oracle.create_trial("a")), oracle.create_trial("b")
    clock[0] = oracles.SILENCE - 1
    end(oracle, other)
    assert oracle.create_trial("b").status == "IDLE"
    clock[0] += 2
    oracle.drop_silent()
    again = oracle.create_trial("b")
    assert (again.trial_id, again.hyperparameters.values) == (lost.trial_id, lost.hyperparameters.values)
    end(oracle, again)
    # The first one was not dead after all.
    lost.status = "INVALID"
    oracle.end_trial(lost)
    assert oracle.trials[lost.trial_id].status == "COMPLETED"
    for worker in ("a", "b"):
        assert oracle.create_trial(worker).status == "STOPPED"
    assert not oracle.tuner_ids


def test_a_trial_that_cost_two_workers_has_failed(oracle, clock):
    for worker in ("a", "b"):
        assert oracle.create_trial(worker).trial_id == "0"
        clock[0] += oracles.SILENCE + 1
        oracle.drop_silent()
    assert oracle.trials["0"].status == "FAILED"
    assert oracle.create_trial("c").trial_id == "1"
