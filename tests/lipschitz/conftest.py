import keras
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def seeded():
    """Every test of layers begins with the same weights."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def jacobian():
    """Function `(layer, x) -> J [outputs, inputs]` of a layer at one input, float64 where the layer is.

    From one backward pass, over as many copies of the input as there are outputs: layers treat each example by itself.
    """
    tf = pytest.importorskip("tensorflow")

    def of_layer(layer, x):
        x = np.asarray(x)
        size = int(np.prod(layer(x[None]).shape))
        copies = tf.constant(np.repeat(x[None], size, axis=0))
        with tf.GradientTape() as tape:
            tape.watch(copies)
            picked = tf.linalg.diag_part(tf.reshape(layer(copies), (size, size)))
        return np.reshape(tape.gradient(picked, copies), (size, -1)).astype("float64")

    return of_layer


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def set_arbitrary_weights():
    """Function that sets all weights of a layer to normal numbers of a size."""

    def of_layer(layer, size, seed=0):
        rng = np.random.default_rng(seed)
        layer.set_weights([size * _normal(rng, weight) for weight in layer.weights])

    return of_layer


def _normal(rng, variable):
    return rng.normal(size=variable.shape).astype(keras.backend.standardize_dtype(variable.dtype))
