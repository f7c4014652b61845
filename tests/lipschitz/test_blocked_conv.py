import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.signal import correlate

from clustr_keras import ClustrClassifier, lipschitz
from clustr_keras.backbones import lipschitz_convnet
from clustr_keras.lipschitz.blocked_conv import BlockedConv2D
from clustr_keras.lipschitz.circular_conv import CircularConv2D


def initialized(layer, shape):
    layer.build((None, *shape))
    rng = np.random.default_rng(0)
    layer.set_weights([rng.normal(size=weight.shape) for weight in layer.weights])
    return layer


@pytest.mark.parametrize("channels", [3, 40])
@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": (2, 4), "padding": "same", "activation": "relu"},
        {"kernel_size": 3, "use_bias": False},
        {"kernel_size": (3, 2), "strides": (2, 3), "padding": "same"},
        {"kernel_size": 3, "strides": 2},
        {"kernel_size": 1, "strides": 2, "padding": "same"},
        {"kernel_size": 3, "dilation_rate": 2, "padding": "same"},
        {"kernel_size": 2, "dilation_rate": (1, 3)},
    ],
)
def test_outputs_are_those_of_the_convolution(arguments, channels):
    layer = initialized(keras.layers.Conv2D(5, **arguments), (9, 8, channels))
    x = np.random.default_rng(1).normal(size=(4, 9, 8, channels)).astype("float32")
    assert_allclose(BlockedConv2D(layer)(x), layer(x), atol=1e-4)


@pytest.mark.parametrize("size", [2, 3])
def test_outputs_are_those_of_a_convolution_that_wraps_around(size):
    layer = initialized(CircularConv2D(5, size), (6, 4, 3))
    x = np.random.default_rng(1).normal(size=(4, 6, 4, 3)).astype("float32")
    assert_allclose(BlockedConv2D(layer)(x), layer(x), atol=1e-5)


@pytest.mark.parametrize("channels", [4, 60])
def test_float32_evaluation_stays_within_its_bound(channels):
    layer = initialized(keras.layers.Conv2D(6, 3, padding="same"), (7, 5, channels))
    ours = lipschitz.bound(BlockedConv2D(layer), input_shape=(7, 5, channels))
    rng = np.random.default_rng(2)
    # Terms of one size and alternating signs round as much as any.
    signs = np.where(np.arange(channels) % 2, 1, -1)
    x = (rng.uniform(0.5, 1.0, size=(20, 7, 5, channels)) * signs).astype("float32")
    kernel, bias = (np.asarray(weight, "float64") for weight in layer.weights)
    padded = np.pad(x.astype("float64"), ((0, 0), (1, 1), (1, 1), (0, 0)))
    exact = np.stack(
        [
            [correlate(image, kernel[..., unit], mode="valid")[..., 0] + bias[unit] for unit in range(6)]
            for image in padded
        ]
    )
    computed = np.moveaxis(np.asarray(BlockedConv2D(layer)(x), "float64"), -1, 1)
    error = np.linalg.norm((computed - exact).reshape(20, -1), axis=-1)
    norm = np.linalg.norm(x.reshape(20, -1), axis=-1)
    assert error.max() > 0
    assert (error <= ours.rounding_slope * norm + ours.rounding_intercept).all()
    assert_allclose(ours.value, lipschitz.bound(layer).value, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "positions"),
    [
        ({"kernel_size": 3, "padding": "same"}, 9 * 8),
        ({"kernel_size": 3, "strides": 2}, 4 * 3),
        ({"kernel_size": (2, 3), "dilation_rate": 2, "activation": "relu"}, 7 * 4),
    ],
)
def test_the_bound_counts_roundings_positions_and_sizes(arguments, positions):
    layer = initialized(keras.layers.Conv2D(5, **arguments), (9, 8, 40))
    short = BlockedConv2D(layer)
    ours = lipschitz.bound(short, input_shape=(9, 8, 40))
    length = np.prod(layer.kernel.shape[:3])
    block = 32 if length < 476 else 64
    roundings = block + -(-length // block) + 1
    gamma = roundings * 2.0**-24 / (1 - roundings * 2.0**-24)
    sizes = np.linalg.norm(np.abs(np.asarray(layer.kernel, "float64")).sum(axis=(0, 1)), ord=2)
    assert_allclose(ours.rounding_slope, gamma * sizes, rtol=1e-6)
    bias = np.linalg.norm(np.asarray(layer.bias, "float64")) * np.sqrt(positions)
    assert_allclose(ours.rounding_intercept, gamma * bias, rtol=1e-6)


def test_the_sizes_of_the_weights_stretch_a_flat_image_most():
    """The bound's norm of `sum_a |K_a|` is reached by an image without variation, away from the edges."""
    layer = initialized(keras.layers.Conv2D(4, 3, use_bias=False), (40, 40, 3))
    ours = lipschitz.bound(BlockedConv2D(layer), input_shape=(40, 40, 3))
    sizes = np.abs(np.asarray(layer.kernel, "float64")).sum(axis=(0, 1))
    direction = np.linalg.svd(sizes)[0][:, 0]
    flat = np.broadcast_to(direction, (40, 40, 3))
    stretched = sum(
        flat[i : i + 38, j : j + 38] @ np.abs(np.asarray(layer.kernel, "float64")[i, j])
        for i in range(3)
        for j in range(3)
    )
    gamma = lipschitz.spectral.gamma(27 + 2, lipschitz.registry.FLOAT32_ROUNDOFF)
    ratio = ours.rounding_slope / (gamma * np.linalg.norm(stretched) / np.linalg.norm(flat))
    assert 1.0 <= ratio < 1.1


def test_a_convolutional_network_gets_certified_radii():
    model = ClustrClassifier(lipschitz_convnet((8, 8, 1), channels=(8,), dense=(8,)), num_classes=3)
    images = np.random.default_rng(0).uniform(size=(10, 8, 8, 1)).astype("float32")
    certificate = model.certify(images)
    slack = certificate.radius - certificate.certified_radius
    assert (certificate.certified_radius > 0).any()
    assert ((slack >= 0) & (slack < 0.01)).all()
