import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose

from clustr_keras import lipschitz
from clustr_keras.lipschitz.blocked_dense import BlockedDense, block_length


def dense(rows, columns, **kwargs):
    layer = keras.layers.Dense(columns, kernel_initializer="random_normal", bias_initializer="random_normal", **kwargs)
    layer.build((None, rows))
    return layer


@pytest.mark.parametrize("rows", [33, 64, 100, 784])
@pytest.mark.parametrize("arguments", [{}, {"activation": "relu"}, {"use_bias": False}])
def test_outputs_are_those_of_the_dense_layer(rows, arguments):
    layer = dense(rows, 20, **arguments)
    x = np.random.default_rng(0).normal(size=(50, rows)).astype("float32")
    assert_allclose(BlockedDense(layer)(x), layer(x), atol=1e-5)


@pytest.mark.parametrize("rows", [256, 784])
def test_float32_evaluation_stays_within_a_bound_that_is_several_times_sharper(rows):
    layer = dense(rows, 64)
    short = BlockedDense(layer)
    ours, plain = lipschitz.bound(short, input_shape=(rows,)), lipschitz.bound(layer)
    assert_allclose(ours.value, plain.value, rtol=1e-6)
    assert ours.rounding_slope < 3 * rows**-0.5 * plain.rounding_slope
    # Terms of one size and alternating signs round as much as any.
    rng = np.random.default_rng(0)
    x = (rng.uniform(0.5, 1.0, size=(100, rows)) * np.where(np.arange(rows) % 2, 1, -1)).astype("float32")
    exact = x.astype("float64") @ np.asarray(layer.kernel, "float64") + np.asarray(layer.bias, "float64")
    error = np.linalg.norm(np.asarray(short(x)) - exact, axis=-1)
    assert (error <= ours.rounding_slope * np.linalg.norm(x, axis=-1) + ours.rounding_intercept).all()


def test_blocks_are_few_and_short():
    for length in (33, 64, 100, 784, 5000):
        block = block_length(length)
        assert block + -(-length // block) < 2.7 * np.sqrt(length) + 33
