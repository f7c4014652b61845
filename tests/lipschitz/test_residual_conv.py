import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from support.examples import examples

from clustr_keras import lipschitz
from clustr_keras.lipschitz import LipschitzResidualConv2D

SIZE, CHANNELS = 5, 3


def built(units=4, kernel_size=3):
    layer = LipschitzResidualConv2D(units, kernel_size)
    layer.build((None, SIZE, SIZE, CHANNELS))
    return layer


def matrix_of(layer):
    """The convolution of the branch on images that wrap around, tap by tap."""
    kernel = np.asarray(layer.kernel, "float64")
    k, _, channels, units = kernel.shape
    matrix = np.zeros((SIZE, SIZE, units, SIZE, SIZE, channels))
    for y, x, i, j in np.ndindex(SIZE, SIZE, k, k):
        matrix[y, x, :, (y + i - k // 2) % SIZE, (x + j - k // 2) % SIZE] += kernel[i, j].T
    return matrix.reshape(SIZE * SIZE * units, -1)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_it_computes_what_its_kernel_says(kernel_size):
    layer = built(4, kernel_size)
    layer.bias.assign([0.1, -0.2, 0.3, 0.0])
    matrix = matrix_of(layer)
    x = np.random.default_rng(0).normal(size=(2, SIZE, SIZE, CHANNELS)).astype("float32")
    flat = x.reshape(2, -1)
    expected = flat - 2.0 * np.maximum(flat @ matrix.T + np.tile([0.1, -0.2, 0.3, 0.0], SIZE**2), 0.0) @ matrix
    assert_allclose(np.reshape(layer(x), (2, -1)), expected, atol=1e-5)
    assert_allclose(layer.condensed()(x), layer(x), atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.floats(-15, 15), st.floats(0, 5), st.sampled_from([1, 4, 9]))
@examples(25)
def test_no_value_of_the_weights_makes_the_norm_exceed_one(seed, magnitude, spread, units):
    layer = built(units)
    rng = np.random.default_rng(seed)
    kernel, scales, bias = (rng.normal(size=w.shape) for w in layer.weights)
    layer.set_weights([10.0**magnitude * kernel, spread * scales, bias])
    response = np.fft.fft2(np.asarray(layer.kernel, "float64"), (32, 32), axes=(0, 1))
    assert np.linalg.svd(response, compute_uv=False).max() <= 1.0 + 1e-6
    assert np.linalg.svd(matrix_of(layer), compute_uv=False)[0] <= 1.0 + 1e-6


def test_one_filter_of_one_pixel_is_a_reflection_of_half_of_the_space():
    layer = built(1, 1)
    x = np.random.default_rng(0).normal(size=(3, SIZE, SIZE, CHANNELS)).astype("float32")
    assert_allclose(np.linalg.norm(layer(x), axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5)


def test_the_bound_is_one_and_stays_so_condensed():
    model = keras.Sequential([keras.Input((SIZE, SIZE, CHANNELS)), LipschitzResidualConv2D(6)])
    assert lipschitz.is_one_lipschitz_by_construction(model)
    for deployed in (model, lipschitz.condense(model)):
        assert 1.0 <= lipschitz.bound(deployed).value <= 1.0 + 1e-6


@pytest.mark.parametrize("kernel_size", [0, 2, 3.0, -1])
def test_the_kernel_size_must_be_odd(kernel_size):
    with pytest.raises(ValueError, match="odd positive integer"):
        LipschitzResidualConv2D(4, kernel_size)


@pytest.mark.parametrize(("shape", "match"), [((None, 8, 3), "images"), ((None, 3, 9, 3), "at least 4 pixels")])
def test_only_images_that_can_wrap_around_are_taken(shape, match):
    with pytest.raises(ValueError, match=match):
        LipschitzResidualConv2D(4, 5).build(shape)
