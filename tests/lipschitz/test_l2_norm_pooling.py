import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from clustr_keras.backend import wide_floats
from clustr_keras.lipschitz import L2NormPooling


@pytest.mark.parametrize("pool_size", [2, (2, 3), (1, 6), 1])
def test_each_window_gives_its_norm(pool_size):
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype("float32")
    rows, columns = (pool_size, pool_size) if isinstance(pool_size, int) else pool_size
    y = np.asarray(L2NormPooling(pool_size)(x))
    assert y.shape == (2, 4 // rows, 6 // columns, 3)
    for i, j in np.ndindex(y.shape[1:3]):
        window = x[:, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
        assert_allclose(y[:, i, j], np.linalg.norm(window.reshape(2, -1, 3), axis=1), rtol=1e-6)


def test_the_norm_of_the_image_is_kept():
    x = np.random.default_rng(0).normal(size=(8, 8, 5)).astype("float32")
    assert_allclose(np.linalg.norm(L2NormPooling(4)(x[None])), np.linalg.norm(x), rtol=1e-6)


@wide_floats()
def test_the_gradient_is_that_of_a_norm_and_zero_where_there_is_none(jacobian):
    x = np.random.default_rng(0).normal(size=(4, 2, 1))
    x[2:] = 0.0
    matrix = jacobian(L2NormPooling(2, dtype="float64"), x)
    assert_allclose(matrix[0], np.r_[x[:2].ravel() / np.linalg.norm(x[:2]), np.zeros(4)], rtol=1e-12)
    assert_array_equal(matrix[1], 0.0)


def test_a_single_entry_in_a_window_has_the_gradient_one(jacobian):
    x = np.array([[0.0, -3.0], [0.0, 0.0]]).reshape(2, 2, 1)
    assert_array_equal(jacobian(L2NormPooling(2, dtype="float64"), x), [[0.0, -1.0, 0.0, 0.0]])


@pytest.mark.parametrize("size", [1e-36, 1e-25, 1e20, 1e37])
def test_squares_neither_overflow_nor_vanish(size, jacobian):
    x = np.full((2, 2, 1), size, "float32")
    assert_allclose(np.ravel(L2NormPooling(2)(x[None])), 2.0 * size, rtol=1e-6)
    assert_allclose(jacobian(L2NormPooling(2), x), 0.5, rtol=1e-6)


def test_half_precision_reaches_as_far_as_its_numbers():
    x = np.full((1, 2, 2, 1), 20000.0, "float32")
    assert_allclose(np.ravel(L2NormPooling(2, dtype="mixed_float16")(x)), 40000.0, rtol=1e-3)


@pytest.mark.parametrize("pool_size", [0, -2, 1.5, (2,), (2, 2, 2), (2, 0), "2"])
def test_pool_size_must_be_one_or_two_positive_integers(pool_size):
    with pytest.raises(ValueError, match="pool_size must be a positive integer or a pair"):
        L2NormPooling(pool_size)


def test_windows_must_fit_the_image():
    with pytest.raises(ValueError, match="divisible by"):
        L2NormPooling((2, 3))(np.zeros((1, 4, 4, 1)))
