import keras
import numpy as np
import pytest
from keras.src.activations import ALL_OBJECTS_DICT
from support.gradients import jacobian

from clustr_keras import lipschitz
from clustr_keras.backend import wide_floats
from clustr_keras.lipschitz import UnknownBoundError
from clustr_keras.lipschitz.activations import _SLOPES, activation_bound


def steepest(function):
    # Differences, not gradients: those are a matter of convention at a kink.
    x = np.linspace(-12.0, 12.0, 480_001)
    with wide_floats():
        values = np.asarray(function(keras.ops.convert_to_tensor(x)))
    # Less what rounding may have added: on JAX, Keras has tanh in float32 alone.
    rounding = 2.0 * np.finfo(values.dtype).eps * np.maximum(np.abs(values[1:]), np.abs(values[:-1]))
    return float(np.max((np.abs(np.diff(values.astype("float64"))) - rounding) / np.diff(x)))


@pytest.mark.parametrize("name", sorted(set(_SLOPES) - {"softmax"}))
def test_the_constant_is_the_steepest_slope_of_a_dense_grid(name):
    slope = steepest(keras.activations.get(name))
    # The tails of softplus, tanh and the like come within 1e-5 of their supremum, squareplus within 0.02.
    slack = 0.02 if name == "squareplus" else 1e-3
    assert slope <= activation_bound(keras.activations.get(name)).lipschitz * (1 + 1e-9) <= slope + slack


def test_approximate_gelu_has_a_bound_above_its_slope():
    slope = steepest(lambda x: keras.activations.gelu(x, approximate=True))
    assert slope <= activation_bound(keras.activations.gelu).lipschitz <= slope + 1e-3


@pytest.mark.parametrize(("name", "size", "expected"), [("softmax", 5, 0.5), ("log_softmax", 9, 3.0)])
def test_softmax_and_its_logarithm(name, size, expected):
    layer = keras.layers.Activation(name)
    assert lipschitz.bound(layer, input_shape=(size,)).value == pytest.approx(expected, rel=1e-6)
    x = np.zeros((2, size), "float32")
    x[0, :2], x[1, 0] = 20.0, 40.0
    norms = [np.linalg.norm(jacobian(layer, row[None]), 2) for row in x]
    assert expected * 0.99 <= max(norms) <= expected * (1 + 1e-6)


@pytest.mark.parametrize("name", sorted(set(ALL_OBJECTS_DICT) - set(_SLOPES) - {"log_softmax", "hard_swish", "swish"}))
def test_what_has_no_bound_is_named(name):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    model.layers[0].activation = keras.activations.get(name)
    with pytest.raises(UnknownBoundError, match=name):
        lipschitz.bound(model)


def test_parameters_count():
    for layer, expected in [
        (keras.layers.LeakyReLU(3.0), 3.0),
        (keras.layers.ELU(2.0), 2.0),
        (keras.layers.ReLU(negative_slope=1.5), 1.5),
    ]:
        assert lipschitz.bound(layer).value == expected
        dense = keras.layers.Dense(2, kernel_initializer="identity", activation=layer)
        dense.build((None, 2))
        assert lipschitz.bound(dense).value == pytest.approx(expected, rel=1e-6)


def test_a_function_of_ones_own_and_softmax_over_the_batch_are_errors():
    with pytest.raises(UnknownBoundError, match="of its own"):
        lipschitz.bound(keras.layers.Activation(lambda x: 2 * x, name="double"), input_shape=(3,))
    with pytest.raises(UnknownBoundError, match="mixes the examples"):
        lipschitz.bound(keras.layers.Softmax(axis=0), input_shape=(3,))
