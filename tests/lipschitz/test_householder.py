import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from clustr_keras import lipschitz
from clustr_keras.lipschitz import HouseholderActivation, MaxMin


def built(angles, dtype=None):
    layer = HouseholderActivation(dtype=dtype)
    layer.build((None, 2 * len(angles)))
    layer.angles.assign(angles)
    return layer


def test_training_begins_as_max_min():
    x = np.random.default_rng(0).normal(size=(50, 3, 8)).astype("float32")
    assert_allclose(HouseholderActivation()(x), MaxMin()(x), atol=1e-6)


def test_pairs_beyond_the_line_are_reflected_and_others_left_alone():
    rng = np.random.default_rng(0)
    angles, x = rng.uniform(-7, 7, size=5), rng.normal(size=(200, 10))
    y = np.asarray(built(angles, "float64")(x))
    for i, angle in enumerate(angles):
        z = x[:, [i, i + 5]]
        stays = z[:, 0] * np.sin(angle / 2) > z[:, 1] * np.cos(angle / 2)
        mirror = np.array([[np.cos(angle), np.sin(angle)], [np.sin(angle), -np.cos(angle)]])
        assert stays.any()
        assert not stays.all()
        assert_allclose(y[:, [i, i + 5]], np.where(stays[:, None], z, z @ mirror), atol=1e-6)


def test_the_jacobian_is_orthogonal_after_wild_steps(jacobian, take_wild_steps):
    layer = built(np.full(4, 1.0), "float64")
    take_wild_steps(layer)
    matrix = jacobian(layer, np.random.default_rng(0).normal(size=8))
    # JAX has float32 for float64.
    precision = 1e-12 if keras.backend.backend() == "tensorflow" else 1e-6
    assert_allclose(np.linalg.svd(matrix, compute_uv=False), 1.0, rtol=0, atol=precision)


def test_the_bound_is_that_of_the_stored_directions():
    plain = built(np.zeros(3)).condensed()
    assert lipschitz.bound(plain, input_shape=(6,)).value == pytest.approx(1.0, abs=2e-7)
    plain.directions.assign([[1.0, 0.0, 0.0], [0.0, 2.0, 0.5]])
    assert lipschitz.bound(plain, input_shape=(6,)).value == pytest.approx(7.0, rel=1e-6)
    # The second pair is what stretches: from (0, 0) to (0, -1) it becomes 7 long.
    assert_array_equal(plain(np.array([[0.0, 0.0, 0.0, 0.0, -1.0, 0.0]])), [[0.0, 0.0, 0.0, 0.0, 7.0, 0.0]])


def test_an_odd_number_of_features_has_no_pairs():
    with pytest.raises(ValueError, match="must be even"):
        HouseholderActivation()(np.zeros((2, 5)))
