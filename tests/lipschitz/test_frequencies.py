import itertools

import keras
import numpy as np
import pytest
import scipy.sparse.linalg
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples

from clustr_keras.lipschitz.frequencies import convolution_norm_bound


def dense_norm(kernel, strides, dilation, size):
    """Norm of the convolution on `size` points per dimension, all overlaps with the kernel kept, as one matrix."""
    dims, (inputs, outputs) = kernel.ndim - 2, kernel.shape[-2:]
    reach = [(k - 1) * d for k, d in zip(kernel.shape, dilation, strict=False)]
    targets = [range(-(r // s) - 1, (size - 1) // s + 1) for r, s in zip(reach, strides, strict=True)]
    rows = {place: i for i, place in enumerate(itertools.product(*targets))}
    matrix = np.zeros((len(rows), outputs, size**dims, inputs))
    for place, row in rows.items():
        for tap in np.ndindex(*kernel.shape[:dims]):
            source = [p * s + t * d for p, s, t, d in zip(place, strides, tap, dilation, strict=True)]
            if all(0 <= x < size for x in source):
                matrix[row, :, np.ravel_multi_index(source, (size,) * dims)] += kernel[tap].T
    return np.linalg.norm(matrix.reshape(len(rows) * outputs, -1), 2)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 3), st.integers(1, 2), st.booleans())
@examples(60)
def test_the_bound_is_above_the_operator_on_a_long_line_and_close_to_it(seed, size, stride, dilation, is_wide):
    kernel = np.random.default_rng(seed).normal(size=(size, 2, 5) if is_wide else (size, 3, 1))
    bound = convolution_norm_bound(kernel, (stride,), (dilation,))
    norm = dense_norm(kernel, (stride,), (dilation,), 48)
    assert norm * (1 - 1e-12) <= bound <= norm * 1.03


@pytest.mark.parametrize(
    ("strides", "dilation"), [((1, 1), (1, 1)), ((2, 1), (1, 1)), ((2, 3), (1, 1)), ((1, 1), (2, 2))]
)
def test_two_dimensions(strides, dilation):
    kernel = np.random.default_rng(0).normal(size=(3, 2, 2, 2))
    bound = convolution_norm_bound(kernel, strides, dilation)
    norm = dense_norm(kernel, strides, dilation, 12)
    assert norm <= bound <= 1.1 * norm


def test_groups_take_the_largest():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 2, 6))
    each = [convolution_norm_bound(kernel[..., 2 * g : 2 * g + 2]) for g in range(3)]
    assert convolution_norm_bound(kernel, groups=3) == pytest.approx(max(each), rel=1e-6)


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_extreme_scales(scale):
    kernel = np.ones((3, 3, 1, 1))
    assert 9.0 * scale <= convolution_norm_bound(scale * kernel) <= 9.03 * scale


def test_a_maximum_between_grid_points_is_covered():
    # Modulated to any frequency, an averaging kernel has the same norm as at frequency 0.
    for frequency in np.linspace(0.0, np.pi, 40):
        taps = np.array([[np.cos(frequency * k), np.sin(frequency * k)] for k in range(4)])
        fine = np.exp(1j * np.linspace(0, np.pi, 20001)[:, None] * np.arange(4)) @ taps
        bound = convolution_norm_bound(taps[:, None, :])
        assert np.linalg.norm(fine, axis=1).max() <= bound <= 1.003 * np.linalg.norm(fine, axis=1).max()


def test_zero_and_nan():
    assert convolution_norm_bound(np.zeros((3, 3, 2, 2))) == 0.0
    with pytest.raises(ValueError, match="NaN"):
        convolution_norm_bound(np.full((3, 2, 2), np.nan))


@pytest.mark.parametrize("channels", [3, 64])
def test_within_five_percent_of_lanczos_at_32(channels):
    kernel = np.random.default_rng(0).normal(size=(3, 3, channels, channels)).astype("float32")

    def convolve(x, kernel):
        x = x.reshape(1, 32, 32, channels).astype("float32")
        return np.asarray(keras.ops.conv(x, kernel, padding="same"), "float64").ravel()

    # With `same` padding the adjoint is the convolution with the kernel flipped and its channels exchanged.
    flipped = kernel[::-1, ::-1].transpose(0, 1, 3, 2).copy()
    operator = scipy.sparse.linalg.LinearOperator(
        (32 * 32 * channels,) * 2, matvec=lambda x: convolve(x, kernel), rmatvec=lambda y: convolve(y, flipped)
    )
    start = np.random.default_rng(1).normal(size=operator.shape[0])
    norm = scipy.sparse.linalg.svds(operator, 1, tol=1e-4, v0=start, return_singular_vectors=False)[0]
    assert norm * (1 - 1e-5) <= convolution_norm_bound(kernel) <= 1.05 * norm
