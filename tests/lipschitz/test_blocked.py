import keras
import numpy as np
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
    model = keras.Model(inputs, keras.layers.Dense(4, activation="tanh")(keras.layers.Dense(50)(inputs)))
    assert not any(isinstance(layer, BlockedDense) for layer in blocked(model).layers)


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
    assert [type(layer).__name__ for layer in copied.layers[1:]] == ["BlockedConv2D", "Conv2D"]
    images = np.random.default_rng(0).uniform(size=(2, 6, 10, 4)).astype("float32")
    assert copied(images).shape == (2, 3, 5, 4)
