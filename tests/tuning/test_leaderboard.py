import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clustr_keras.tuning import Leaderboard
from clustr_keras.tuning.leaderboard import pareto_front

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
    Leaderboard(leaderboard.rows[:1], leaderboard.parameters, leaderboard.metrics).plot()
