import keras
import numpy as np
import pytest
from support import gradients
from support.steps import compiled_step


@pytest.fixture(autouse=True)
def seeded():
    """Every test of layers begins with the same weights."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def jacobian():
    """Function `(layer, x) -> J [outputs, inputs]` of a layer at one input, float64 where the layer is."""
    return lambda layer, x: gradients.jacobian_at(layer, np.asarray(x))


@pytest.fixture(scope="session")
def take_wild_steps():
    """Function that takes steps of a layer, 200 if not told, with random gradients at a high learning rate."""

    def of_layer(layer, steps=200, optimizer=None):
        optimizer = optimizer or keras.optimizers.Adam(0.1)
        optimizer.build(layer.trainable_variables)
        step = compiled_step(optimizer, layer.trainable_variables)
        rng = np.random.default_rng(0)
        for _ in range(steps):
            step([keras.ops.convert_to_tensor(_normal(rng, variable)) for variable in layer.trainable_variables])

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
