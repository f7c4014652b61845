import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from support.examples import examples
from support.frequencies import norm_on_a_grid

from clustr_keras.lipschitz.correlations import correlation_norm_bound, is_sharp


@given(
    st.tuples(*(st.integers(1, 4) for _ in range(4))),
    st.integers(0, 2**32 - 1),
    st.floats(-200, 150),
)
@examples(40)
def test_it_is_never_below_the_norm_at_any_frequency(shape, seed, magnitude):
    kernel = np.random.default_rng(seed).normal(size=shape)
    bound = correlation_norm_bound(kernel * 10.0**magnitude) / 10.0**magnitude
    assert bound >= norm_on_a_grid(kernel) * (1 - 1e-12)


def test_an_orthogonal_kernel_has_the_bound_one():
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    p = q[:, :3] @ q[:, :3].T
    kernel = np.stack([p, np.eye(6) - p])[:, None] @ np.linalg.qr(rng.normal(size=(6, 6)))[0]
    assert_allclose(correlation_norm_bound(kernel), 1.0, atol=1e-12)
    assert_allclose(correlation_norm_bound(kernel[..., :4]), 1.0, atol=1e-12)
    assert correlation_norm_bound(kernel) >= norm_on_a_grid(kernel) * (1 - 1e-15)


def test_a_blur_has_the_sum_of_its_taps():
    assert_allclose(correlation_norm_bound(np.ones((3, 2, 1, 1))), 6.0, rtol=1e-9)


@given(st.tuples(*(st.integers(1, 3) for _ in range(4))), st.integers(0, 2**32 - 1))
@examples(40)
def test_a_bound_that_is_called_sharp_is_near_the_norm(shape, seed):
    kernel = np.random.default_rng(seed).normal(size=shape)
    norm = norm_on_a_grid(kernel, 64)
    assert not is_sharp(norm * 1.02, kernel)
    assert is_sharp(np.sqrt(np.sum(kernel**2) / min(shape[2:])), kernel)


def test_the_bound_of_an_orthogonal_kernel_is_sharp_and_that_of_a_blur_is_not():
    for scale in (1e-3, 1.0, 40.0):
        kernel = scale * np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0][None, None, :, :3]
        assert is_sharp(correlation_norm_bound(kernel), kernel)
        assert not is_sharp(correlation_norm_bound(scale * np.ones((2, 2, 1, 1))), scale * np.ones((2, 2, 1, 1)))


def test_no_kernel_at_all():
    assert correlation_norm_bound(np.zeros((3, 3, 2, 2))) == 0.0


def test_a_kernel_that_is_not_finite_has_no_bound():
    with pytest.raises(ValueError, match="NaN or an infinity"):
        correlation_norm_bound(np.full((1, 1, 2, 2), np.nan))
