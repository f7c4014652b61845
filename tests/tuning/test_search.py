import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import keras_tuner
import numpy as np
import pytest

from clustr_keras import cli
from clustr_keras.data import load
from clustr_keras.tuning import ClustrHyperModel, Leaderboard, make_objective, make_tuner
from clustr_keras.tuning.search import as_part_of, saving_atomically

CLUSTR = [pathlib.Path(sys.executable).with_name("clustr")]
# As CLUSTR; but KerasTuner's chief looks only every 20 s whether its workers have gone.
IMPATIENT = """
import time
from clustr_keras.cli import main
sleep = time.sleep
time.sleep = lambda seconds: sleep(min(seconds, 3))
main()
"""


def tune(folder, *arguments, clustr=CLUSTR):
    command = [*clustr, "tune", "--output", folder, "--epochs", "1", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def tune_here(monkeypatch):
    """As `tune`, but in this process, which does not take seconds to start; returns when it has ended well."""

    def run(folder, *arguments):
        monkeypatch.setattr(sys, "argv", ["clustr", "tune", "--output", str(folder), "--epochs", "1", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0

    return run


def finished(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def trials(folder):
    """Status of each trial on disk."""
    files = sorted((folder / "random").glob("trial_*/trial.json"))
    return [json.loads(file.read_text())["status"] for file in files]


def test_a_search_that_was_killed_goes_on(tmp_path, tune_here, capsys):
    process = tune(tmp_path, "--max-trials", 3)
    while trials(tmp_path).count("COMPLETED") < 1:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)  # it needs the processor
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    process.communicate()
    done = trials(tmp_path).count("COMPLETED")
    assert 1 <= done < 3
    tune_here(tmp_path, "--max-trials", "3", "--retrain", str(tmp_path / "best.keras"))
    assert trials(tmp_path) == ["COMPLETED"] * 3
    assert "certified accuracy" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "best.keras").exists()
    assert len((tmp_path / "leaderboard.csv").read_text().splitlines()) == 4


def test_a_chief_and_two_workers_share_the_trials(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    arguments = ("--max-trials", "4")
    chief = tune(tmp_path, *arguments, "--chief", address, clustr=[sys.executable, "-c", IMPATIENT])
    workers = [tune(tmp_path, *arguments, "--worker", address) for _ in range(2)]
    for process in (*workers, chief):
        code, out, err = finished(process)
        assert code == 0, err
    assert trials(tmp_path) == ["COMPLETED"] * 4
    assert "certified" in out
    # Each worker leaves a file of its own, by its name.
    assert len(list((tmp_path / "random").glob("worker-*.json"))) == 2


def test_state_is_replaced_and_never_half_written(tmp_path, monkeypatch):
    trial = keras_tuner.engine.trial.Trial(keras_tuner.HyperParameters(), "7")
    before = type(trial).save
    with saving_atomically():
        trial.save(str(tmp_path / "trial.json"))
        whole = (tmp_path / "trial.json").read_text()
        monkeypatch.setattr(trial, "get_state", lambda: {"broken": object()})
        with pytest.raises(TypeError):
            trial.save(str(tmp_path / "trial.json"))
    assert (tmp_path / "trial.json").read_text() == whole
    assert json.loads(whole)["trial_id"] == "7"
    assert type(trial).save is before


@pytest.mark.parametrize("name", ["bayesian", "hyperband"])
def test_other_tuners(name, tmp_path):
    hypermodel = ClustrHyperModel(load("digits"))
    shares = iter(np.random.default_rng(0).uniform(size=(100, 2)))

    def measure(model):
        clean, certified = next(shares)
        return {
            "val_accuracy": clean,
            "val_certified_accuracy": certified,
            "val_clean_and_certified_accuracy": 0.5 * (clean + certified),
        }

    hypermodel.train, hypermodel.measure = lambda model, data, recipe, callbacks: None, measure
    tuner = make_tuner(name, hypermodel, make_objective("clean+certified"), 3, 2, tmp_path)
    tuner.search(verbose=0, **({} if name == "hyperband" else {"epochs": 1}))
    leaderboard = Leaderboard.of(tuner)
    sums = [round(row["val_accuracy"] + row["val_certified_accuracy"], 9) for row in leaderboard.rows]
    assert len(sums) >= 2
    assert sums == sorted(sums, reverse=True)
    assert "tuner/epochs" not in leaderboard.parameters


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
