import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clustr_keras.lipschitz.spectral import gamma, spectral_norm_bound

matrices = hnp.arrays(
    "float64",
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.floats(-1e6, 1e6, allow_subnormal=False),
)


@given(matrices)
def test_the_bound_is_above_the_norm_and_close_to_it(matrix):
    norm = np.linalg.norm(matrix, 2)
    bound = spectral_norm_bound(matrix)
    # The SVD has an error of its own.
    assert bound >= norm * (1 - 1e-14)
    assert bound <= norm * (1 + 1e-3) + 1e-300


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (1, 50), (64, 64)])
@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_large_random_and_orthogonal_matrices(shape, scale):
    matrix = np.random.default_rng(0).normal(size=shape)
    orthogonal = np.linalg.svd(matrix, full_matrices=False)
    for case in (matrix, orthogonal[0] @ orthogonal[2]):
        norm = np.linalg.norm(case, 2) * scale
        assert norm * (1 - 1e-14) <= spectral_norm_bound(case * scale) <= norm * (1 + 1e-9)


def test_zero_has_norm_zero():
    assert spectral_norm_bound(np.zeros((3, 2))) == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_matrix_that_is_not_finite_has_no_bound(bad):
    with pytest.raises(ValueError, match="NaN or an infinity"):
        spectral_norm_bound([[1.0, bad]])


def test_a_vector_is_refused():
    with pytest.raises(ValueError, match="rank 2"):
        spectral_norm_bound(np.ones(3))


def test_gamma_covers_float32_sums_in_any_order():
    rng = np.random.default_rng(0)
    for _ in range(50):
        x, y = rng.normal(size=(2, 400)).astype("float32")
        exact = np.dot(x.astype("float64"), y.astype("float64"))
        size = np.dot(np.abs(x).astype("float64"), np.abs(y))
        forward = np.float32(0)
        for term in x * y:
            forward = np.float32(forward + term)
        for computed in (forward, np.dot(x, y), np.sum(x * y)):
            assert abs(computed - exact) <= gamma(400, 2.0**-24) * size
