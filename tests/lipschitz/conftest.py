import keras
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def seeded():
    """Every test of layers begins with the same weights."""
    keras.utils.set_random_seed(0)


@pytest.fixture
def jacobian():
    """Function `(layer, x) -> J [outputs, inputs]` of a layer at one input, float64 where the layer is."""
    tf = pytest.importorskip("tensorflow")

    def of_layer(layer, x):
        x = tf.constant(np.asarray(x)[None])
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            outputs = layer(x)
        size = int(np.prod(x.shape))
        return np.reshape(tape.jacobian(outputs, x, experimental_use_pfor=False), (-1, size)).astype("float64")

    return of_layer


@pytest.fixture
def take_wild_steps():
    """Function that takes 200 optimizer steps of a layer with random gradients at a high learning rate."""

    tf = pytest.importorskip("tensorflow")

    def of_layer(layer):
        optimizer = keras.optimizers.Adam(0.1)
        optimizer.build(layer.trainable_variables)
        step = tf.function(optimizer.apply)
        rng = np.random.default_rng(0)
        for _ in range(200):
            step([tf.constant(_normal(rng, variable)) for variable in layer.trainable_variables])

    return of_layer


@pytest.fixture
def set_arbitrary_weights():
    """Function that sets all weights of a layer to normal numbers of a size."""

    def of_layer(layer, size, seed=0):
        rng = np.random.default_rng(seed)
        layer.set_weights([size * _normal(rng, weight) for weight in layer.weights])

    return of_layer


def _normal(rng, variable):
    return rng.normal(size=variable.shape).astype(keras.backend.standardize_dtype(variable.dtype))
