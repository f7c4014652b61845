import numpy as np
import pytest
from numpy.testing import assert_array_equal

from clustr_keras.lipschitz import GroupSort, MaxMin


@pytest.mark.parametrize("group_size", [2, 3, 4, 12])
def test_each_group_comes_out_in_descending_order(group_size):
    x = np.random.default_rng(0).normal(size=(5, 3, 12)).astype("float32")
    y = np.asarray(GroupSort(group_size)(x))
    groups = 12 // group_size
    for i in range(groups):
        assert_array_equal(y[..., i::groups], np.sort(x[..., i::groups])[..., ::-1])


def test_pairs_are_those_of_max_min():
    x = np.random.default_rng(0).normal(size=(5, 4, 4, 10)).astype("float32")
    assert_array_equal(GroupSort(2)(x), MaxMin()(x))


def test_the_gradient_is_a_permutation(jacobian):
    matrix = jacobian(GroupSort(3, dtype="float64"), np.random.default_rng(0).normal(size=9))
    assert set(np.unique(matrix)) == {0.0, 1.0}
    assert_array_equal(matrix.sum(axis=0), np.ones(9))
    assert_array_equal(matrix.sum(axis=1), np.ones(9))


@pytest.mark.parametrize("group_size", [1, 0, 2.0, "3"])
def test_group_size_must_be_an_integer_above_one(group_size):
    with pytest.raises(ValueError, match="group_size must be an integer of at least 2"):
        GroupSort(group_size)


def test_groups_must_come_out_even():
    with pytest.raises(ValueError, match="divisible by 4"):
        GroupSort(4)(np.zeros((2, 10)))
