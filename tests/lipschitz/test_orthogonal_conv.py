import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from support.examples import examples

from clustr_keras import lipschitz
from clustr_keras.lipschitz import OrthogonalConv2D, orthogonal_optimizer
from clustr_keras.lipschitz.circular_conv import CircularConv2D


def built(channels, filters, kernel_size=3, padding="circular"):
    layer = OrthogonalConv2D(filters, kernel_size, padding)
    layer.build((None, None, None, channels))
    return layer


def response(layer, points=16):
    """Singular values of the kernel's frequency response, `[points, points, min(C, filters)]`."""
    kernel = np.asarray(layer.kernel, "float64")
    return np.linalg.svd(np.fft.fft2(kernel, (points, points), axes=(0, 1)), compute_uv=False)


def matrix_of(layer, size, padding):
    """The matrix of a layer's kernel on images `size x size`, tap by tap."""
    kernel = np.asarray(layer.kernel, "float64")
    k, _, channels, filters = kernel.shape
    matrix = np.zeros((size, size, filters, size, size, channels))
    for y, x, i, j in np.ndindex(size, size, k, k):
        row, column = y + i - (k - 1) // 2, x + j - (k - 1) // 2
        if padding == "circular":
            matrix[y, x, :, row % size, column % size] += kernel[i, j].T
        elif 0 <= row < size and 0 <= column < size:
            matrix[y, x, :, row, column] = kernel[i, j].T
    return matrix.reshape(size * size * filters, -1)


SHAPES = [(4, 4, 3), (3, 8, 3), (8, 3, 3), (1, 1, 3), (1, 4, 2), (5, 5, 1), (2, 6, 5)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_new_kernel_is_orthogonal_at_every_frequency(shape):
    assert_allclose(response(built(*shape)), 1.0, atol=3e-6)


@pytest.mark.parametrize(
    "make", [lambda: keras.optimizers.Adam(0.1), lambda: orthogonal_optimizer(1.0)], ids=["Adam", "Muon"]
)
@pytest.mark.parametrize("shape", [(6, 6, 3), (3, 8, 3), (8, 3, 2)])
def test_a_thousand_wild_steps_leave_it_orthogonal(shape, make, take_wild_steps):
    layer = built(*shape)
    take_wild_steps(layer, 1000, make())
    values = response(layer)
    assert values.max() <= 1.0 + 1e-6
    assert values.min() >= 0.999
    assert np.linalg.svd(matrix_of(layer, 5, "same"), compute_uv=False)[0] <= 1.0 + 1e-6
    wrapped = np.linalg.svd(matrix_of(layer, 5, "circular"), compute_uv=False)
    assert wrapped[0] <= 1.0 + 1e-6
    assert wrapped[-1] >= 0.999
    assert values.max() * (1 - 1e-9) <= lipschitz.bound(layer).value <= 1.0001


@pytest.mark.parametrize("shape", [(6, 6, 3), (3, 8, 3), (8, 3, 2)])
def test_arbitrary_weights_make_it_orthogonal_and_stay_so_when_saved(shape, set_arbitrary_weights, tmp_path):
    channels, filters, kernel_size = shape
    model = keras.Sequential([keras.Input((8, 8, channels)), OrthogonalConv2D(filters, kernel_size)])
    for seed in range(3):
        set_arbitrary_weights(model, 3.0, seed)
        model.save(tmp_path / "model.keras")
        for layer in (model.layers[0], keras.models.load_model(tmp_path / "model.keras").layers[0]):
            assert response(layer).max() <= 1.0 + 1e-6
            assert response(layer).min() >= 0.99


@pytest.mark.parametrize("channels", [64, 128])
def test_kernels_as_large_as_those_of_the_presets_are_orthogonal_too(channels, set_arbitrary_weights):
    layer = built(channels, channels)
    for _ in range(2):  # new, and after that of any weights
        values = response(layer, 4)
        assert values.max() <= 1.0 + 1e-6
        assert values.min() >= 0.99
        set_arbitrary_weights(layer, 3.0)


@given(st.integers(0, 2**32 - 1), st.floats(-4, 6), st.sampled_from([(4, 4, 3), (2, 6, 3), (6, 2, 2)]), st.booleans())
@examples(15)
def test_no_value_of_the_weights_makes_the_norm_exceed_one(seed, magnitude, shape, low_rank):
    layer = built(*shape)
    rng = np.random.default_rng(seed)
    values = [10.0**magnitude * rng.normal(size=weight.shape) for weight in layer.weights]
    if low_rank:
        values = [np.outer(v[:, 0], v[0]) if v.ndim == 2 else v for v in values]
    layer.set_weights(values)
    largest = response(layer).max()
    assert largest <= 1.0 + 1e-6
    assert lipschitz.bound(layer).value >= largest * (1 - 1e-9)


@pytest.mark.parametrize("padding", ["circular", "same"])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4])
def test_it_computes_what_its_kernel_says(padding, kernel_size):
    layer = built(3, 4, kernel_size, padding)
    layer.bias.assign([1.0, 2.0, 3.0, 4.0])
    x = np.random.default_rng(0).normal(size=(2, 5, 5, 3)).astype("float32")
    expected = x.reshape(2, -1) @ matrix_of(layer, 5, padding).T + np.tile([1.0, 2.0, 3.0, 4.0], 25)
    assert_allclose(np.reshape(layer(x), (2, -1)), expected, atol=1e-5)
    assert_allclose(layer.condensed()(x), layer(x), atol=1e-5)


def test_images_that_wrap_around_may_have_any_size():
    x = np.random.default_rng(0).normal(size=(2, 6, 4, 3)).astype("float32")
    layer = OrthogonalConv2D(8)
    of_any_size = keras.Sequential([keras.Input((None, None, 3)), layer])
    assert_allclose(np.linalg.norm(of_any_size(x)), np.linalg.norm(x), rtol=1e-5)
    for convolution in (OrthogonalConv2D(8, 5), CircularConv2D(8, 5)):
        with pytest.raises(ValueError, match="at least 4 pixels"):
            convolution.build((None, 6, 3, 3))


def test_inside_a_border_of_zeros_it_is_an_isometry():
    x = np.zeros((1, 9, 9, 3), "float32")
    x[:, 2:-2, 2:-2] = np.random.default_rng(0).normal(size=(5, 5, 3))
    assert_allclose(np.linalg.norm(built(3, 8, 5, "same")(x)), np.linalg.norm(x), rtol=1e-5)


def test_the_projections_differ():
    ranges = [np.asarray(layer.kernel) for layer in built(4, 4).ranges]
    assert all(np.abs(a - b).max() > 0.1 for i, a in enumerate(ranges) for b in ranges[:i])


def test_it_learns_what_such_a_layer_computes():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 6, 6, 3)).astype("float32")
    teacher = built(3, 4)
    model = keras.Sequential([keras.Input((6, 6, 3)), OrthogonalConv2D(4)])
    # From nearby: orthogonal matrices fall into parts that no path connects.
    model.set_weights([w + 0.2 * rng.normal(size=w.shape) for w in teacher.get_weights()])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    losses = model.fit(x, np.asarray(teacher(x)), epochs=80, batch_size=16, verbose=0).history["loss"]
    assert losses[-1] < 1e-3 < 1e-2 < losses[0]


def test_condensing_gives_one_plain_convolution():
    layer = built(3, 8, padding="same")
    layer.bias.assign(np.arange(8.0))
    plain = layer.condensed()
    assert type(plain) is keras.layers.Conv2D
    x = np.random.default_rng(0).normal(size=(2, 6, 7, 3)).astype("float32")
    assert_allclose(plain(x), layer(x), atol=1e-5)


def test_padding_must_be_known():
    with pytest.raises(ValueError, match='"circular" or "same"'):
        OrthogonalConv2D(4, padding="valid")


@pytest.mark.parametrize("arguments", [(0,), (2.5,), (4, 0), (4, (3, 3))])
def test_sizes_must_be_positive_integers(arguments):
    with pytest.raises(ValueError, match="must be an integer of at least 1"):
        OrthogonalConv2D(*arguments)


def test_only_images_are_taken():
    with pytest.raises(ValueError, match="needs images"):
        OrthogonalConv2D(4)(np.zeros((2, 8, 3)))


def test_one_seed_does_not_make_all_factors_alike():
    layer = OrthogonalConv2D(4, kernel_initializer=keras.initializers.Orthogonal(seed=3))
    layer.build((None, 8, 8, 4))
    first, *others = [np.asarray(factor.raw_kernel) for factor in layer.ranges]
    assert all(np.abs(first - other).max() > 0.1 for other in others)
