import numpy as np
import pytest
from numpy.testing import assert_array_equal

from clustr_keras.attacks import AttackResult, OnSubset


class Whitener:
    """Turns every image white, which is class 1."""

    norm, name = "l_2", "whitener"

    def __init__(self):
        self.calls = []

    def attempts(self, count):
        return 7 * count

    def __call__(self, images, labels, eps, progress=None):
        self.calls.append((images, labels, eps))
        distance = np.linalg.norm((1.0 - images.astype("float64")).reshape(len(images), -1), axis=1)
        return AttackResult(np.ones_like(images), labels != 1, np.ones_like(labels), distance)


def images_of(count):
    return np.random.default_rng(0).uniform(0, 1, (count, 2, 2, 1)).astype("float32")


def test_the_subset_is_attacked_and_the_rest_is_left_alone():
    images, attack = images_of(50), Whitener()
    eps = np.linspace(0, 1, 50)
    result = OnSubset(attack, count=20, seed=3)(images, np.zeros(50, int), eps)
    ((attacked, labels, given),) = attack.calls
    rows = np.flatnonzero(result.is_flipped)
    assert len(rows) == len(attacked) == len(labels) == 20
    assert_array_equal(attacked, images[rows])
    assert_array_equal(given, eps[rows])
    assert_array_equal(result.adversarial[rows], 1.0)
    rest = np.setdiff1d(np.arange(50), rows)
    assert_array_equal(result.adversarial[rest], images[rest])
    assert_array_equal(result.distance[rest], 0.0)
    assert_array_equal(result.class_ids, result.is_flipped)
    assert (result.distance[rows] > 0).all()


def test_equal_seeds_draw_equal_subsets_and_others_do_not():
    images, labels = images_of(50), np.zeros(50, int)
    drawn = [
        np.flatnonzero(OnSubset(Whitener(), count=10, seed=seed)(images, labels, 1.0).is_flipped) for seed in (0, 0, 1)
    ]
    assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_all_are_attacked_where_there_are_no_more():
    attack = OnSubset(Whitener(), count=64)
    assert attack(images_of(5), np.zeros(5, int), 1.0).is_flipped.all()
    assert (attack.attempts(5), attack.attempts(100)) == (35, 448)
    assert attack.name == "whitener, on at most 64 examples"
    assert attack.norm == "l_2"


def test_an_empty_subset_is_refused():
    with pytest.raises(ValueError, match="count must be at least 1; got 0"):
        OnSubset(Whitener(), count=0)
