"""Each kind of layer against the Jacobian of what Keras really computes."""

import pathlib
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

from clustr_keras import lipschitz
from clustr_keras.lipschitz import UnknownBoundError


def jacobian_norm(layer, shape, seed=0):
    """The largest singular value of the Jacobian at a random point, one forward difference per entry: exact for the
    piecewise linear layers here, up to float32.
    """
    x = np.random.default_rng(seed).normal(size=(1, *shape)).astype("float32")
    steps = np.eye(x.size, dtype="float32").reshape(-1, *shape) * 2.0**-6
    outputs = np.asarray(layer(np.concatenate([x, x + steps])), "float64").reshape(1 + x.size, -1)
    return np.linalg.norm((outputs[1:] - outputs[0]) * 2.0**6, 2)


EXACT = [
    (layers.AveragePooling2D(2, 2, "same"), (5, 5, 2), 1.0),
    (layers.AveragePooling2D(2), (6, 6, 2), 0.5),
    (layers.AveragePooling1D(3, 1), (9, 2), None),
    (layers.AveragePooling1D(3, 2, "same"), (8, 2), None),
    (layers.AveragePooling2D((3, 2), (1, 2), "same"), (5, 4, 1), None),
    (layers.AveragePooling2D(2, data_format="channels_first"), (3, 4, 4), 0.5),
    (layers.AveragePooling3D(2, 1), (3, 3, 3, 1), None),
    (layers.GlobalAveragePooling2D(), (3, 4, 2), 12**-0.5),
    (layers.GlobalMaxPooling1D(), (4, 2), 1.0),
    (layers.MaxPooling2D(2), (4, 4, 1), 1.0),
    (layers.UpSampling1D(3), (4, 2), 3**0.5),
    (layers.UpSampling2D((2, 3)), (3, 3, 1), 6**0.5),
    (layers.UpSampling3D(2), (2, 2, 2, 1), 8**0.5),
    (layers.UpSampling2D((2, 3), interpolation="bilinear"), (4, 3, 1), None),
    (layers.UpSampling2D((2, 3), interpolation="bicubic"), (5, 3, 1), None),
    (layers.UpSampling2D(2, interpolation="lanczos3"), (6, 5, 1), None),
    (layers.UpSampling2D(2, interpolation="lanczos5"), (6, 5, 1), None),
    (layers.ZeroPadding2D(1), (3, 3, 1), 1.0),
    (layers.Cropping2D(1), (4, 4, 1), 1.0),
    (layers.RepeatVector(4), (3,), 2.0),
    (layers.Rescaling([1.0, -3.0], [1.0, 0.0]), (3, 2), 3.0),
    (layers.Permute((2, 1)), (3, 2), 1.0),
]


@pytest.mark.parametrize(("layer", "shape", "expected"), EXACT)
def test_the_bound_is_the_norm(layer, shape, expected):
    bound = lipschitz.bound(layer, input_shape=shape).value
    norm = jacobian_norm(layer, shape)
    assert norm * (1 - 1e-5) <= bound <= norm * (1 + 1e-3)
    assert expected is None or bound == pytest.approx(expected, rel=1e-6)


def test_bicubic_and_lanczos_exceed_their_factor():
    for interpolation, at_least in (("bicubic", 2.002), ("lanczos3", 2.08), ("lanczos5", 2.16)):
        layer = layers.UpSampling2D(2, interpolation=interpolation)
        assert lipschitz.bound(layer, input_shape=(16, 16, 1)).value > at_least


def test_overlapping_maxima_count_once_per_window():
    assert lipschitz.bound(layers.MaxPooling2D(3, 1), input_shape=(9, 9, 1)).value == pytest.approx(3.0, rel=1e-6)
    # One large entry in the middle is the maximum of all nine windows.
    x = np.zeros((2, 9, 9, 1), "float32")
    x[0, 4, 4], x[1, 4, 4] = 1.0, 2.0
    assert np.linalg.norm(np.subtract(*np.asarray(layers.MaxPooling2D(3, 1)(x)))) == pytest.approx(3.0)


@pytest.mark.parametrize("equation", ["abc,cd->ad", "abc,cd->abd", "abc,bcd->abd", "abc,cde->aebd", "...c,cd->...d"])
def test_einsum(equation):
    output_shape = {"abc,cd->ad": 4, "abc,cde->aebd": (2, None, 4), "...c,cd->...d": 4}.get(equation, (None, 4))
    layer = layers.EinsumDense(equation, (5, 4) if "bcd" in equation else output_shape)
    layer.build((None, 5, 3))
    norm = jacobian_norm(layer, (5, 3))
    assert norm * (1 - 1e-4) <= lipschitz.bound(layer, input_shape=(5, 3)).value <= norm * 1.01


def test_einsum_that_sums_is_more_than_its_kernel():
    layer = layers.EinsumDense("abc,cd->ad", 3)
    layer.build((None, 16, 3))
    kernel = np.linalg.norm(np.asarray(layer.kernel), 2)
    assert lipschitz.bound(layer, input_shape=(16, 3)).value == pytest.approx(4.0 * kernel, rel=1e-3)


CONVOLUTIONS = [
    (layers.Conv1D(3, 3, padding="causal", dilation_rate=2), (24, 2)),
    (layers.Conv1D(4, 3, strides=2, padding="same", groups=2), (24, 4)),
    (layers.Conv2D(3, (3, 2), padding="same"), (10, 10, 2)),
    (layers.Conv2D(3, 3, strides=(2, 1)), (10, 10, 2)),
    (layers.Conv2D(2, 3, data_format="channels_last", dilation_rate=2), (11, 11, 2)),
    (layers.Conv3D(2, 2, padding="same"), (5, 5, 5, 1)),
    (layers.DepthwiseConv1D(3, depth_multiplier=2), (20, 2)),
    (layers.DepthwiseConv2D(3, depth_multiplier=2, strides=2), (10, 10, 2)),
    (layers.SeparableConv1D(3, 3, padding="same"), (20, 2)),
    (layers.SeparableConv2D(3, 3, depth_multiplier=2), (10, 10, 2)),
    (layers.Conv1DTranspose(3, 3, strides=2, padding="same"), (16, 2)),
    (layers.Conv2DTranspose(2, 3, strides=2, output_padding=1), (7, 7, 2)),
    (layers.Conv2DTranspose(2, (3, 2), strides=(1, 2), padding="same"), (8, 8, 2)),
    (layers.Conv3DTranspose(1, 2, strides=2), (3, 3, 3, 2)),
]


@pytest.mark.parametrize(("layer", "shape"), CONVOLUTIONS)
def test_convolutions_are_bounded_and_not_by_much(layer, shape):
    layer.build((None, *shape))
    norm = jacobian_norm(layer, shape)
    assert norm * (1 - 1e-4) <= lipschitz.bound(layer, input_shape=shape).value <= 1.25 * norm


def test_batch_normalization_at_inference():
    for options in ({}, {"scale": False}, {"center": False}):
        layer = layers.BatchNormalization(epsilon=0.5, **options)
        layer.build((None, 2))
        layer.moving_variance.assign([0.5, 3.5])
        factor = 1.0
        if "scale" not in options:
            layer.gamma.assign([1.0, -6.0])
            factor = 3.0
        assert lipschitz.bound(layer).value == pytest.approx(factor, rel=1e-5)


@pytest.mark.parametrize("layer", [layers.BatchNormalization(), layers.Dropout(0.5), layers.GaussianNoise(1.0)])
def test_training_mode_is_an_error(layer):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layer(inputs, training=True))
    with pytest.raises(UnknownBoundError, match="training=True"):
        lipschitz.bound(model)
    assert not lipschitz.is_one_lipschitz_by_construction(model)
    inner = keras.Sequential([keras.Input((4,)), layers.Dropout(0.5)])
    with pytest.raises(UnknownBoundError, match="training=True"):
        lipschitz.bound(keras.Model(inputs, inner(inputs, training=True)))


@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_rounding_of_a_mean_is_bounded_and_not_by_much_more(count):
    inputs = keras.Input((50,))
    branches = [layers.Rescaling(2.0 ** -(index % 2))(inputs) for index in range(count)]  # exact, all but the mean
    bound = lipschitz.bound(keras.Model(inputs, layers.Average()(branches)))
    x = np.random.default_rng(0).normal(size=(500, 50)).astype("float32")
    exact = sum(x.astype("float64") / 2 ** (index % 2) for index in range(count)) / count
    found = np.asarray(layers.Average()([x / np.float32(2 ** (index % 2)) for index in range(count)]))
    error, norm = np.linalg.norm(found - exact, axis=-1), np.linalg.norm(x.astype("float64"), axis=-1)
    assert (error <= bound.rounding_slope * norm + bound.rounding_intercept).all()
    assert error.max() > 0.02 * bound.rounding_slope * norm.max()


@pytest.mark.parametrize(
    ("merge", "expected"),
    [
        (layers.Add(), 5.0),
        (layers.Subtract(), 5.0),
        (layers.Average(), 2.5),
        (layers.Concatenate(), 13**0.5),
        (layers.Maximum(), 13**0.5),
        (lambda pair: pair[0] + pair[1], 5.0),
        (lambda pair: ops.concatenate(pair, axis=-1), 13**0.5),
        (lambda pair: ops.minimum(*pair), 13**0.5),
    ],
)
def test_branches(merge, expected):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, merge([layers.Rescaling(2.0)(inputs), layers.Rescaling(-3.0)(inputs)]))
    assert lipschitz.bound(model).value == pytest.approx(expected, rel=1e-6)
    assert not lipschitz.is_one_lipschitz_by_construction(model)


def test_a_broadcast_branch_counts_every_copy():
    inputs = keras.Input((4, 3))
    small = layers.GlobalMaxPooling1D(keepdims=True)(inputs)
    assert lipschitz.bound(keras.Model(inputs, layers.Add()([inputs, small]))).value == pytest.approx(3.0, rel=1e-6)


def test_the_rounding_of_branches_is_bounded():
    inputs = keras.Input((20,))
    x = layers.Dense(30, activation="relu")(inputs)
    x = layers.Concatenate()([layers.Subtract()([layers.Dense(30)(x), x]), layers.Add()([x, x, x])])
    model = keras.Model(inputs, x)
    bound = lipschitz.bound(model)
    first, second = (layer for layer in model.layers if isinstance(layer, layers.Dense))

    def exact(x):
        x = np.maximum(x @ np.asarray(first.kernel, "float64") + np.asarray(first.bias, "float64"), 0.0)
        y = x @ np.asarray(second.kernel, "float64") + np.asarray(second.bias, "float64")
        return np.concatenate([y - x, 3.0 * x], axis=-1)

    x = np.random.default_rng(0).normal(size=(64, 20)).astype("float32")
    error = np.linalg.norm(np.asarray(model(x)) - exact(x.astype("float64")), axis=-1)
    norm = np.linalg.norm(x.astype("float64"), axis=-1)
    assert (error <= bound.rounding_slope * norm + bound.rounding_intercept).all()
    peak = bound.peak_slope * norm + bound.peak_intercept
    assert (np.linalg.norm(exact(x), axis=-1) <= peak).all()


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: ops.transpose(x),
        lambda x: ops.reshape(x, (-1, 2)),
        lambda x: ops.mean(x, axis=0, keepdims=True),
        lambda x: ops.sum(x),
        lambda x: ops.flip(x),
        lambda x: x[1:,],
        lambda x: x[..., 1:, 0:1],
        lambda x: ops.softmax(x, axis=0),
        lambda x: ops.concatenate([x, x], axis=0),
        lambda x: x * x,
        lambda x: 1.0 / x,
        lambda x: x + np.ones((3, 4), "float32"),
        lambda x: ops.square(x),
        lambda x: ops.matmul(x, ops.transpose(x)),
        lambda x: ops.cast(x, "int32"),
        lambda x: layers.Flatten(dtype="int32")(x),
        lambda x: layers.Multiply()([x, x]),
        lambda x: layers.Lambda(lambda y: y)(x),
        lambda x: layers.UnitNormalization()(x),
        lambda x: layers.Attention()([layers.Reshape((2, 2))(x)] * 2),
    ],
)
def test_what_has_no_bound_is_an_error(operation):
    inputs = keras.Input((4,))
    x = operation(inputs)
    with pytest.raises(UnknownBoundError):
        lipschitz.bound(keras.Model(inputs, x))


def test_constants():
    inputs = keras.Input((4,))
    x = ops.maximum(inputs * np.array([1.0, -5.0, 2.0, 0.0], "float32") / 2.0 - 1.0, 0.0)
    assert lipschitz.bound(keras.Model(inputs, x)).value == pytest.approx(2.5, rel=1e-5)
    with pytest.raises(ValueError, match="NaN"):
        lipschitz.bound(keras.Model(inputs, inputs * np.array([1.0, np.nan, 2.0, 0.0], "float32")))


def test_open_sizes_are_filled_in():
    inputs = keras.Input((None, None, 2))
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(layers.ZeroPadding2D(1)(inputs)))
    with pytest.raises(UnknownBoundError, match="input_shape"):
        lipschitz.bound(model)
    assert lipschitz.bound(model, input_shape=(6, 6, 2)).value == pytest.approx(1 / 8, rel=1e-6)
    # A nested model sees the size that it is used at.
    outer = keras.Input((2, 2, 2))
    assert lipschitz.bound(keras.Model(outer, model(outer))).value == pytest.approx(1 / 4, rel=1e-6)
    with pytest.raises(ValueError, match="takes inputs of shape"):
        lipschitz.bound(model, input_shape=(6, 6, 3))


def test_a_layer_without_weights_yet_is_an_error():
    with pytest.raises(UnknownBoundError, match="not built"):
        lipschitz.bound(layers.Conv2D(3, 3), input_shape=(8, 8, 1))
    with pytest.raises(UnknownBoundError, match="several tensors"):
        lipschitz.bound(layers.Add(), input_shape=(8,))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="climbs along TensorFlow's gradients")
@pytest.mark.parametrize("part", range(6))
def test_no_slope_of_random_models_exceeds_the_bound(part, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(pathlib.Path(__file__).parents[2] / "benchmarks"), *sys.path])
    import lipschitz_models

    for index in range(1000 + part, 1036, 6):
        model, used = lipschitz_models.random_model(index)
        steepest = max(lipschitz_models.steepest_slope(model, index))
        assert steepest <= lipschitz.bound(model).value * (1 + 2e-5), used
