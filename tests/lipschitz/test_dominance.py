import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples
from support.frequencies import norm_on_a_grid

from clustr_keras import lipschitz
from clustr_keras.lipschitz import LipschitzResidualConv2D
from clustr_keras.lipschitz.dominance import dominance_norm_bound
from clustr_keras.lipschitz.frequencies import convolution_norm_bound


@given(
    st.tuples(*(st.integers(1, 4) for _ in range(4))),
    st.integers(0, 2**32 - 1),
    st.floats(-200, 150),
    st.booleans(),
)
@examples(40)
def test_it_is_never_below_the_norm_at_any_frequency(shape, seed, magnitude, is_sparse):
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=shape) * (rng.uniform(size=shape) < (0.3 if is_sparse else 1.0))
    bound = dominance_norm_bound(kernel * 10.0**magnitude) / 10.0**magnitude
    assert bound >= norm_on_a_grid(kernel) * (1 - 1e-12)


def test_the_best_weights_are_found():
    # With equal ones the bound would be that of the largest row, sqrt(3 * 3.2).
    kernel = np.array([[[[3.0, 0.1, 0.1]]]])
    assert dominance_norm_bound(kernel) == pytest.approx(np.linalg.norm(kernel), rel=1e-9)


def test_a_blur_has_the_sum_of_its_taps():
    assert dominance_norm_bound(np.ones((3, 2, 1, 1))) == pytest.approx(6.0, rel=1e-9)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_of_a_wide_residual_layer_it_is_one_where_a_grid_of_frequencies_allows_more(scale):
    layer = LipschitzResidualConv2D(128)
    layer.build((None, 8, 8, 64))
    rng = np.random.default_rng(0)
    # Without a sign there is nothing in which the inner products could cancel: the norm is 1.
    layer.set_weights([rng.uniform(size=(3, 3, 64, 128)), scale * rng.normal(size=128), np.zeros(128)])
    bound = dominance_norm_bound(layer.kernel)
    assert norm_on_a_grid(np.asarray(layer.kernel, "float64")) <= bound <= 1.0 + 1e-5
    assert convolution_norm_bound(layer.kernel) > 1.001
    model = keras.Sequential([keras.Input((8, 8, 64)), layer])
    assert lipschitz.bound(model).value <= 1.0 + 1e-4


def test_no_kernel_at_all():
    assert dominance_norm_bound(np.zeros((3, 3, 2, 2))) == 0.0


def test_a_kernel_that_is_not_finite_has_no_bound():
    with pytest.raises(ValueError, match="NaN or an infinity"):
        dominance_norm_bound(np.full((1, 1, 2, 2), np.nan))
