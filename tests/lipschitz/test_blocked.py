import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose

from clustr_keras import lipschitz
from clustr_keras.backbones import lipschitz_convnet, lipschitz_mlp
from clustr_keras.lipschitz.blocked import blocked
from clustr_keras.lipschitz.blocked_conv import BlockedConv2D
from clustr_keras.lipschitz.blocked_dense import BlockedDense


def test_a_network_is_copied_with_its_long_sums_cut():
    plain = lipschitz.condense(lipschitz_mlp((12, 12, 1), (64, 32, 8)))
    short = blocked(plain)
    kinds = [type(layer).__name__ for layer in short.layers]
    assert kinds == ["InputLayer", "Flatten", "BlockedDense", "MaxMin", "BlockedDense", "MaxMin", "Dense"]
    x = np.random.default_rng(0).uniform(size=(9, 12, 12, 1)).astype("float32")
    assert_allclose(short(x), plain(x), atol=1e-5)


def test_what_cannot_be_cut_stays_as_it_is():
    inputs = keras.Input((50, 40))
    model = keras.Model(inputs, keras.layers.Dense(4, activation="tanh")(keras.layers.Dense(30)(inputs)))
    assert [type(layer).__name__ for layer in blocked(model).layers[1:]] == ["BlockedDense", "Dense"]


def test_a_dense_layer_at_many_positions_rounds_at_each_of_them():
    """Its bias alone rounds by the root of the positions: what was built for one is called at many."""
    dense = keras.layers.Dense(16, bias_initializer="ones")
    dense.build((None, 40))
    inputs = keras.Input((20_000, 40))
    model = blocked(keras.Model(inputs, keras.layers.GlobalMaxPooling1D()(dense(inputs))))
    assert model.layers[1].output.shape == (None, 20_000, 16)
    model = keras.Model(model.inputs, model.layers[1].output)
    x = (1e-4 * np.random.default_rng(0).normal(size=(1, 20_000, 40))).astype("float32")
    exact = x.astype("float64") @ np.asarray(dense.kernel, "float64") + 1.0
    ours = lipschitz.bound(model)
    error = np.linalg.norm(np.asarray(model(x), "float64") - exact)
    assert 1e-6 < error <= ours.rounding_slope * np.linalg.norm(x) + ours.rounding_intercept


def test_convolutions_become_products_with_an_analysis_of_their_rounding():
    plain = lipschitz.condense(lipschitz_convnet((8, 8, 1), channels=(8, 16), dense=(16, 8), padding="circular"))
    short = blocked(plain)
    kinds = [type(layer).__name__ for layer in short.layers]
    assert kinds.count("BlockedConv2D") == 2
    x = np.random.default_rng(0).uniform(size=(9, 8, 8, 1)).astype("float32")
    assert_allclose(short(x), plain(x), atol=1e-5)
    ours = lipschitz.bound(short)
    assert lipschitz.bound(plain).rounding_slope is None
    assert 0 < ours.rounding_slope < 1e-3
    assert_allclose(ours.value, lipschitz.bound(plain).value, rtol=1e-6)


def test_convolutions_of_other_kinds_stay_as_they_are():
    inputs = keras.Input((8, 8, 4))
    x = keras.layers.Conv2D(4, 3, groups=2)(inputs)
    x = keras.layers.Conv2D(4, 3, activation="tanh")(x)
    assert not any(isinstance(layer, BlockedConv2D) for layer in blocked(keras.Model(inputs, x)).layers)
    open_size = keras.Input((None, None, 4))
    x = keras.layers.Conv2D(4, 3, padding="same")(open_size)
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same")(x)
    copied = blocked(keras.Model(open_size, x))
    assert [type(layer).__name__ for layer in copied.layers[1:]] == ["BlockedConv2D", "BlockedConv2D"]
    images = np.random.default_rng(0).uniform(size=(2, 6, 10, 4)).astype("float32")
    assert_allclose(copied.predict(images, verbose=0), keras.Model(open_size, x)(images), atol=1e-5)
    assert lipschitz.bound(copied).rounding_slope is None


def test_what_cannot_be_computed_in_blocks_is_refused():
    for layer, match in (
        (keras.layers.Conv2D(4, 3, groups=2), "2 groups"),
        (keras.layers.Conv2D(4, 3, activation="tanh"), "linear or ReLU"),
        (keras.layers.Dense(4, activation="tanh"), "linear or ReLU"),
    ):
        layer.build((None, 8, 8, 4))
        with pytest.raises(ValueError, match=match):
            (BlockedDense if isinstance(layer, keras.layers.Dense) else BlockedConv2D)(layer)
