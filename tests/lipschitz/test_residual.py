import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from support.examples import examples

from clustr_keras import lipschitz
from clustr_keras.lipschitz import LipschitzResidual
from clustr_keras.lipschitz.residual import CondensedResidual


def built(units, size, dtype=None):
    layer = LipschitzResidual(units, dtype=dtype)
    layer.build((None, size))
    return layer


@pytest.mark.usefixtures("wide")
def test_it_is_the_layer_of_the_paper():
    rng = np.random.default_rng(0)
    w, log_q, b, x = rng.normal(size=(6, 4)), rng.normal(size=4), rng.normal(size=4), rng.normal(size=(9, 6))
    q = np.exp(log_q)
    t = np.array([sum(abs(w[:, i] @ w[:, j]) * q[j] / q[i] for j in range(4)) for i in range(4)])
    expected = x - 2.0 * np.maximum(x @ w + b, 0.0) / t @ w.T
    layer = built(4, 6, "float64")
    layer.set_weights([w, log_q, b / np.sqrt(t)])
    assert_allclose(layer(x), expected, atol=1e-10)


@given(st.integers(0, 2**32 - 1), st.floats(-30, 30), st.floats(-2, 6), st.sampled_from([(3, 8), (8, 3), (5, 5)]))
@examples(40)
def test_no_value_of_the_weights_makes_v_longer_than_one(seed, magnitude, of_scales, shape):
    size, units = shape
    rng = np.random.default_rng(seed)
    layer = built(units, size)
    columns = 10.0 ** rng.uniform(-8, 0, size=units)
    w = 10.0**magnitude * rng.normal(size=shape) * columns
    layer.set_weights([w, 10.0**of_scales * rng.normal(size=units), rng.normal(size=units)])
    kernel = np.asarray(layer.kernel, "float64")
    assert np.isfinite(kernel).all()
    assert np.linalg.norm(kernel, 2) <= 1.0 + 1e-6
    assert lipschitz.bound(layer).value <= 1.0 + 4e-6


@pytest.mark.parametrize("shape", [(5, 12), (12, 5)])
def test_distances_never_grow_after_wild_steps(shape, take_wild_steps, jacobian):
    size, units = shape
    layer = built(units, size, "float64")
    take_wild_steps(layer)
    rng = np.random.default_rng(0)
    for x in rng.normal(size=(5, size)):
        assert np.linalg.norm(jacobian(layer, x), 2) <= 1.0 + 1e-6
    x, y = rng.normal(size=(2, 1000, size))
    gaps = np.linalg.norm(np.asarray(layer(x)) - np.asarray(layer(y)), axis=-1) / np.linalg.norm(x - y, axis=-1)
    assert gaps.max() <= 1.0 + 1e-6
    assert gaps.min() < 0.99


def test_a_new_square_layer_keeps_every_norm(jacobian):
    layer = built(6, 6, "float64")
    values = np.linalg.svd(jacobian(layer, np.random.default_rng(0).normal(size=6)), compute_uv=False)
    assert_allclose(values, 1.0, atol=1e-6)


def test_columns_of_zeros_do_nothing():
    layer = built(3, 2)
    layer.set_weights([np.array([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]]), np.zeros(3), np.ones(3)])
    assert_allclose(layer.kernel, [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    layer.set_weights([np.zeros((2, 3)), np.zeros(3), np.ones(3)])
    x = np.ones((1, 2), "float32")
    assert_array_equal(layer(x), x)


def test_the_gradient_is_finite_where_a_column_is_zero():
    model = keras.Sequential([keras.Input((2,)), LipschitzResidual(3)])
    model.layers[0].set_weights([np.array([[0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]), np.zeros(3), np.ones(3)])
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 2)), np.zeros((4, 2)), verbose=0)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


@pytest.mark.parametrize("factor", [1.0, 1.1, 3.0])
def test_the_bound_of_whatever_kernel_is_stored_holds(factor):
    rng = np.random.default_rng(0)
    layer = CondensedResidual(1)
    layer.build((None, 2))
    layer.kernel.assign(factor * np.array([[0.6], [0.8]]))
    layer.bias.assign([0.3])
    x, y = rng.normal(size=(2, 5000, 2)).astype("float32")
    gaps = np.linalg.norm(np.asarray(layer(x)) - np.asarray(layer(y)), axis=-1) / np.linalg.norm(x - y, axis=-1)
    bound = lipschitz.bound(layer).value
    # With one column the Jacobian I - 2 V V^T reaches |1 - 2 s| with s = ||V||^2, which is the bound: 1 + 4 s (s - 1).
    assert gaps.max() <= bound * (1 + 1e-5)
    assert bound == pytest.approx(max(1.0, 2.0 * factor**2 - 1.0), rel=1e-5)


@pytest.mark.parametrize("units", [0, -1, 2.0, "8"])
def test_units_must_be_a_positive_integer(units):
    with pytest.raises(ValueError, match="units must be an integer of at least 1"):
        LipschitzResidual(units)
