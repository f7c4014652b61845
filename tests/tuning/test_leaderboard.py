import csv
import io

import keras_tuner
import numpy as np
import pytest
import rich.console
from hypothesis import given
from hypothesis import strategies as st
from keras_tuner.engine.base_tuner import BaseTuner
from PIL import Image

from clustr_keras.tuning import Leaderboard, make_objective
from clustr_keras.tuning.leaderboard_plot import pareto_front
from clustr_keras.tuning.oracles import RandomSearch

SHARES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12)


@given(SHARES)
def test_the_front_is_what_no_other_exceeds(points):
    first, second = np.array(points, float).T
    front = pareto_front(first, second)
    assert list(first[front]) == sorted(first[front])
    values = {(first[i], second[i]) for i in front}
    for a, b in points:
        exceeded = any((c >= a and d >= b) and (c > a or d > b) for c, d in points)
        assert ((a, b) in values) == (not exceeded)


@pytest.fixture
def leaderboard():
    rows = [
        {"trial": "1", "width": 64, "margin": 0.5, "val_accuracy": 0.9, "val_certified_accuracy": 0.8},
        {"trial": "0", "width": 128, "margin": 5.0, "val_accuracy": 0.95, "val_certified_accuracy": 0.6},
        {"trial": "2", "width": None, "margin": 0.1, "val_accuracy": 0.7, "val_certified_accuracy": 0.5},
    ]
    return Leaderboard(rows, ("width", "margin"), ("val_accuracy", "val_certified_accuracy"))


def test_table_and_picture_are_written(leaderboard, tmp_path):
    leaderboard.write(tmp_path)
    rows = list(csv.DictReader((tmp_path / "leaderboard.csv").open()))
    assert [row["trial"] for row in rows] == ["1", "0", "2"]
    assert rows[1]["margin"] == "5.0"
    assert Image.open(tmp_path / "leaderboard.png").size[0] > 1000


def test_the_picture_shows_every_trial_and_the_front(leaderboard):
    parallel, plane = leaderboard.plot().axes
    lines = [line for line in parallel.lines if len(line.get_xdata()) == 4]
    assert len(lines) == 3
    assert len(plane.collections[0].get_offsets()) == 3
    np.testing.assert_array_equal(plane.lines[0].get_xdata(), [0.9, 0.95])


def test_one_trial_can_be_shown(leaderboard):
    parallel, plane = Leaderboard(leaderboard.rows[:1], leaderboard.parameters, leaderboard.metrics).plot().axes
    assert len([line for line in parallel.lines if len(line.get_xdata()) == 4]) == 1
    assert len(plane.collections[0].get_offsets()) == 1


def test_columns_and_axes_go_by_name_whatever_order_a_chief_was_told_them_in(tmp_path):
    hp = keras_tuner.HyperParameters()
    hp.Choice("optimizer", ["adam", "sgd", "lion"])
    oracle = RandomSearch(objective=make_objective("certified"), max_trials=3, hyperparameters=hp, seed=1)
    tuner = BaseTuner(oracle, directory=str(tmp_path), project_name="search")
    oracle.verbose = 0
    measured = {"val_certified_radius": 0.2, "own": 1.0, "val_certified_accuracy": 0.5, "val_accuracy": 0.9}
    for _ in range(3):
        trial = oracle.create_trial("a")
        oracle.update_trial(trial.trial_id, measured)
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
    leaderboard = Leaderboard.of(tuner)
    assert leaderboard.metrics == ("val_accuracy", "val_certified_accuracy", "val_certified_radius", "own")
    parallel, plane = leaderboard.plot().axes
    assert (plane.get_xlabel(), plane.get_ylabel()) == ("val_accuracy", "val_certified_accuracy")
    np.testing.assert_array_equal(plane.collections[0].get_offsets(), [[0.9, 0.5]] * 3)
    # What is no number has a place for each of its values.
    names = {text.get_text(): text.get_position()[1] for text in parallel.texts if text.get_text().isalpha()}
    assert sorted(names, key=names.get) == ["adam", "lion", "sgd"]
    assert sorted(line.get_ydata()[0] for line in parallel.lines if len(line.get_xdata()) == 3) == [0.0, 0.5, 1.0]
    console = rich.console.Console(width=200, file=io.StringIO())
    console.print(leaderboard.table())
    assert "optimizer lion" in console.file.getvalue()
