import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose

from clustr_keras import ClusterHead, lipschitz
from clustr_keras.backbones import convnet


def test_it_learns_the_digits_in_a_few_epochs(digits):
    (images, labels), (test_images, test_labels) = digits
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, ClusterHead(10)(convnet((8, 8, 1), width=8, dim=32)(inputs)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(5e-3), loss, metrics=["accuracy"])
    model.fit(images, labels, epochs=8, batch_size=64, verbose=0)
    assert model.evaluate(test_images, test_labels, verbose=0, return_dict=True)["accuracy"] > 0.9


def test_its_bound_holds():
    backbone = convnet((9, 12, 1), width=4, dim=5)
    assert backbone.output_shape == (None, 5)
    x, y = np.random.default_rng(0).uniform(size=(2, 20, 9, 12, 1)).astype("float32")
    apart = np.linalg.norm((x - y).reshape(20, -1), axis=-1)
    moved = np.linalg.norm(np.asarray(backbone(x)) - np.asarray(backbone(y)), axis=-1)
    assert (moved <= lipschitz.bound(backbone).value * apart).all()


def test_normalization_inside_is_normalization_outside():
    keras.utils.set_random_seed(0)
    plain = convnet((8, 8, 3), width=4)
    normalizing = convnet((8, 8, 3), width=4, mean=0.5, std=(0.25, 0.5, 1.0))
    normalizing.set_weights([*normalizing.get_weights()[: -len(plain.weights)], *plain.get_weights()])
    images = np.random.default_rng(0).uniform(size=(3, 8, 8, 3)).astype("float32")
    assert_allclose(normalizing(images), plain((images - 0.5) / np.float32([0.25, 0.5, 1.0])), atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_embeddings_are_float32_under_mixed_precision(policy):
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy(policy)
        backbone = convnet((8, 8, 1), width=4)
    finally:
        keras.config.set_dtype_policy(before)
    assert backbone.get_layer("conv1").compute_dtype != "float32"
    assert keras.backend.standardize_dtype(backbone(np.ones((2, 8, 8, 1))).dtype) == "float32"
