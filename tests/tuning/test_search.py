import dataclasses
import gc
import json
import os
import socket
import subprocess
import sys
import threading
import time

import keras_tuner
import numpy as np
import pytest
from keras_tuner.engine.trial import Trial
from support.trials import METRICS, end

from clustr_keras import cli
from clustr_keras.data import load
from clustr_keras.training import CertifiedRecipe, paper_recipe
from clustr_keras.tuning import ClustrHyperModel, Leaderboard, make_objective, make_tuner, oracles, tuners
from clustr_keras.tuning.manifest import manifest_of, pin
from clustr_keras.tuning.run import run_search
from clustr_keras.tuning.search import as_part_of, saving_atomically

# Kills itself as it begins its second trial.
KILLED = """
import os, signal
from clustr_keras.tuning import ClustrHyperModel, tuners
tuners.BEAT = 0.5
fit, begun = ClustrHyperModel.fit, []
def fit_once(self, *args, **kwargs):
    begun.append(args)
    if len(begun) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return fit(self, *args, **kwargs)
ClustrHyperModel.fit = fit_once
from clustr_keras.cli import main
main()
"""
# Searches once it is told to.
LATER = """
from clustr_keras.cli import main
from clustr_keras.tuning import tuners
tuners.BEAT = 0.5
input()
main()
"""


@pytest.fixture(scope="module", autouse=True)
def _frozen():
    """Leaves TensorFlow's many objects out of the garbage collections that KerasTuner makes before each trial."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture
def small(monkeypatch):
    """Networks that are built in no time."""

    def recipe_of(self, hp):
        return dataclasses.replace(self.recipe, sizes={"widths": (8, 4)}, margin=hp.Float("margin", 0.1, 1.0))

    monkeypatch.setattr(ClustrHyperModel, "recipe_of", recipe_of)


@pytest.fixture
def make(digits, small, tmp_path):
    """Makes the tuner of a search in `tmp_path`."""

    def make(name="random", seed=0, epochs=1, objective="certified", max_trials=3, **settings):
        hypermodel = ClustrHyperModel(digits, **settings)
        return make_tuner(name, hypermodel, make_objective(objective), max_trials, epochs, tmp_path, seed)

    return make


def arguments(folder):
    return ["tune", "--output", str(folder), "--epochs", "1", "--max-trials", "3"]


def started(code, folder, *more, **variables):
    command = [sys.executable, "-c", code, *arguments(folder), *more]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **variables})


@pytest.fixture
def tune_here(monkeypatch):
    """Searches in this process, which does not take seconds to start; returns when that has ended well."""

    def run(folder, *more):
        monkeypatch.setattr(sys, "argv", ["clustr", *arguments(folder), *more])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0

    return run


def trials(folder):
    """State of each trial on disk."""
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*/trial_*/trial.json"))]


def statuses(folder):
    return [trial["status"] for trial in trials(folder)]


def chosen(trial):
    return trial["hyperparameters"]["values"]


def test_a_search_that_was_killed_goes_on(tmp_path, tune_here, monkeypatch, capsys):
    process = started(KILLED, tmp_path)
    _, err = process.communicate(timeout=300)
    assert process.returncode == -9, err
    assert statuses(tmp_path) == ["COMPLETED", "RUNNING"]
    first, second = trials(tmp_path)
    file = tmp_path / "random" / "trial_0" / "trial.json"
    finished = file.read_bytes(), file.stat().st_mtime_ns

    begun, fit = [], ClustrHyperModel.fit
    monkeypatch.setattr(
        ClustrHyperModel, "fit", lambda self, hp, *a, **k: begun.append(hp.values) or fit(self, hp, *a, **k)
    )
    tune_here(tmp_path, "--retrain", str(tmp_path / "best.keras"))
    assert statuses(tmp_path) == ["COMPLETED"] * 3
    assert (file.read_bytes(), file.stat().st_mtime_ns) == finished
    assert len(begun) == 2
    assert begun[0] == chosen(second) != chosen(first)
    assert "certified accuracy" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "best.keras").exists()
    assert len((tmp_path / "leaderboard.csv").read_text().splitlines()) == 4


def test_a_chief_and_two_workers_share_the_trials_and_one_of_them_dies(tmp_path, tune_here, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    variables = {"KERASTUNER_TUNER_ID": "worker-b", "KERASTUNER_ORACLE_IP": "127.0.0.1"}
    first = started(KILLED, tmp_path, "--worker", f"127.0.0.1:{port}", "--worker-name", "worker-a")
    second = started(LATER, tmp_path, **variables, KERASTUNER_ORACLE_PORT=port)
    ended = {}

    def follow():
        ended[first.pid] = first.communicate(timeout=300)
        ended[second.pid] = second.communicate("begin\n", timeout=300)

    follower = threading.Thread(target=follow)
    follower.start()
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.2)))  # KerasTuner's chief waits for 20 s
    monkeypatch.setattr(oracles, "SILENCE", 3.0)
    monkeypatch.setattr(tuners, "BEAT", 0.5)
    tune_here(tmp_path, "--chief", f"127.0.0.1:{port}")
    follower.join(60)
    assert (first.returncode, second.returncode) == (-9, 0), ended
    assert statuses(tmp_path) == ["COMPLETED"] * 3
    assert {file.stem for file in (tmp_path / "random").glob("worker-*.json")} == {"worker-a", "worker-b"}
    out = " ".join(capsys.readouterr().out.split())
    assert "Worker worker-a is lost; another one will run its trial 1." in out
    assert "certified" in out


@pytest.mark.parametrize("before_the_end", [True, False])
def test_a_kill_between_two_files_costs_no_trial_and_no_result(before_the_end, make, monkeypatch):
    def killed():
        raise KeyboardInterrupt

    oracle = make().oracle
    end(oracle, oracle.create_trial("tuner0"))
    trial = None if before_the_end else oracle.create_trial("tuner0")
    monkeypatch.setattr(oracle, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        oracle.create_trial("tuner0") if before_the_end else end(oracle, trial)
    next_one = make().oracle.create_trial("tuner0")
    assert next_one.trial_id == ("1" if before_the_end else "2")
    assert next_one.metrics.metrics == {}
    if before_the_end:
        assert next_one.hyperparameters.values == oracle.trials["1"].hyperparameters.values


@pytest.mark.parametrize("roles", [(None, "chief"), ("chief", None)])
def test_a_search_goes_on_alone_or_with_a_chief_however_it_was_begun(roles, make):
    for count, role in enumerate(roles):
        with as_part_of(role, "127.0.0.1:1"):
            tuner = make()
            assert len(tuner.oracle.trials) == count
            end(tuner.oracle, tuner.oracle.create_trial("any"))
            tuner.save()


def test_the_same_seed_draws_the_same_settings(make, tmp_path):
    drawn = []
    for seed in (0, 0, 1):
        drawn.append(make(seed=seed).oracle.create_trial("tuner0").hyperparameters.values)
        (tmp_path / "manifest.json").unlink()
        (tmp_path / "random" / "oracle.json").unlink()
    assert drawn[0] == drawn[1] != drawn[2]


def test_another_search_in_the_same_folder_is_refused(make, digits, tmp_path):
    make()
    make(max_trials=9)
    goal = make_objective("certified")
    for other, difference in (
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"epochs": 2}, "epochs: 1 there, 2 now"),
        ({"radius": 0.5}, r"radius: 0\.3 there, 0\.5 now"),
        ({"objective": "clean"}, "objective: val_certified_accuracy there, val_accuracy now"),
        ({"name": "bayesian"}, "tuner: random there, bayesian now"),
        ({"recipe": CertifiedRecipe(margin=1.0)}, r"recipe\.margin: 0\.8 there, 1\.0 now"),
    ):
        with pytest.raises(ValueError, match=rf"differs in {difference}\. Trials would be mixed up"):
            make(**other)
    with pytest.raises(ValueError, match=r"recipe: CertifiedRecipe there, Recipe now; .*; \d+ more\."):
        pin(tmp_path, manifest_of("random", ClustrHyperModel(digits, paper_recipe("clustr")), goal, 1, 0))
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "random" / "oracle.json").touch()
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        make()


def search(digits, folder, monkeypatch, fails, max_trials, retrain=None):
    """A search whose trials fail that `fails` is true of, and give the same metrics otherwise."""
    begun = []

    def fit(self, hp, model, **kwargs):
        begun.append(hp)
        if fails(len(begun) - 1):
            raise ValueError("[no] such luck")
        return METRICS

    monkeypatch.setattr(ClustrHyperModel, "fit", fit)
    return run_search(digits, "certified", folder, max_trials=max_trials, epochs=1, retrain=retrain).leaderboard


def test_a_trial_that_failed_is_counted_and_left_out(digits, small, tmp_path, monkeypatch, capsys):
    leaderboard = search(digits, tmp_path, monkeypatch, lambda trial: trial == 1, 3)
    assert {row["trial"] for row in leaderboard.rows} == {"0", "2"}
    assert leaderboard.failures_in_words() == "1 of 3 trials failed. Trial 1: ValueError: [no] such luck"
    assert "Trial 1 failed: ValueError: [no] such luck" in capsys.readouterr().out
    assert len((tmp_path / "leaderboard.csv").read_text().splitlines()) == 3


def test_where_all_trials_fail_none_is_retrained_and_three_in_a_row_end_the_search(
    digits, small, tmp_path, monkeypatch
):
    retrain = tmp_path / "best.keras"
    with pytest.raises(ValueError, match="nothing to retrain"):
        search(digits, tmp_path, monkeypatch, lambda trial: True, 2, retrain)
    with pytest.raises(ValueError, match="the last three trials failed"):
        search(digits, tmp_path, monkeypatch, lambda trial: True, 9, retrain)
    assert statuses(tmp_path) == ["FAILED"] * 5
    assert not retrain.exists()
    # Begun again, the search may do better.
    assert len(search(digits, tmp_path, monkeypatch, lambda trial: False, 6).rows) == 1


def test_state_is_replaced_and_never_half_written(tmp_path, monkeypatch):
    trial = Trial(keras_tuner.HyperParameters(), "7")
    before = Trial.save
    with saving_atomically():
        trial.save(str(tmp_path / "trial.json"))
        whole = (tmp_path / "trial.json").read_text()
        monkeypatch.setattr(trial, "get_state", lambda: {"broken": object()})
        with pytest.raises(TypeError):
            trial.save(str(tmp_path / "trial.json"))
    assert (tmp_path / "trial.json").read_text() == whole
    assert json.loads(whole)["trial_id"] == "7"
    assert Trial.save is before


def test_bayesian_search(make):
    tuner = make("bayesian", objective="clean+certified")
    shares = iter(np.random.default_rng(0).uniform(size=(3, 2)))

    def measure(model):
        clean, certified = next(shares)
        return {
            "val_accuracy": clean,
            "val_certified_accuracy": certified,
            "val_clean_and_certified_accuracy": 0.5 * (clean + certified),
        }

    tuner.hypermodel.train, tuner.hypermodel.measure = lambda model, *arguments: model, measure
    tuner.search(verbose=0, epochs=1)
    sums = [row["val_accuracy"] + row["val_certified_accuracy"] for row in Leaderboard.of(tuner).rows]
    assert len(sums) == 3
    assert sums == sorted(sums, reverse=True)


def test_hyperband_goes_on_with_the_best_trial_where_it_stopped(make):
    tuner = make("hyperband", epochs=3)
    seen = []

    def train(model, data, recipe, callbacks, initial_epoch):
        """Adds 1 to a weight in each epoch."""
        variable = model.trainable_variables[0]
        before = float(np.mean(variable))
        for epoch in range(initial_epoch, recipe.epochs):
            variable.assign_add(np.ones(variable.shape))
            for callback in callbacks:
                callback.set_model(model)
                callback.on_epoch_end(epoch, {})
        seen.append((initial_epoch, recipe.epochs, before, float(np.mean(variable))))

    # The second of the first three trials is the best of them.
    tuner.hypermodel.train = train
    tuner.hypermodel.measure = lambda model: {**METRICS, "val_certified_accuracy": 0.9 if len(seen) == 2 else 0.1}
    tuner.search(verbose=0)
    assert [epochs[:2] for epochs in seen] == [(0, 1)] * 3 + [(1, 3)] + [(0, 3)] * 2
    assert seen[3][2] == pytest.approx(seen[1][3], abs=1e-5)
    assert tuner.oracle.trials["0003"].hyperparameters.values["tuner/trial_id"] == "0001"
    assert "tuner/epochs" not in Leaderboard.of(tuner).parameters


def test_names_that_are_not_known_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no objective 'best'"):
        make_objective("best")
    with pytest.raises(ValueError, match="no tuner 'grid'"):
        make_tuner("grid", None, make_objective("clean"), 1, 1, tmp_path)


def test_parts_of_a_search_are_checked_and_leave_the_environment_as_it_was(monkeypatch):
    monkeypatch.delenv("KERASTUNER_TUNER_ID", raising=False)
    before = dict(os.environ)
    with as_part_of("worker-1", "10.0.0.1:8000"):
        assert os.environ["KERASTUNER_TUNER_ID"] == "worker-1"
        assert (os.environ["KERASTUNER_ORACLE_IP"], os.environ["KERASTUNER_ORACLE_PORT"]) == ("10.0.0.1", "8000")
    assert dict(os.environ) == before
    for role, address in (("chief", "8000"), ("chief", None), ("chief", "host:x"), ("not-the-chief", "host:1")):
        with pytest.raises(ValueError, match=r"host:port|must not contain"), as_part_of(role, address):
            pass
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "10.0.0.1")
    with pytest.raises(ValueError, match="KERASTUNER_ORACLE_PORT not"), as_part_of(None, None):
        pass
