import types

import keras
import numpy as np
from keras import ops
from numpy.testing import assert_allclose
from support.gradients import value_and_gradients

from clustr_keras import ClusterHead
from clustr_keras.backend import example_noise
from clustr_keras.consistency import EmbeddingConsistency

EPS, STEP = 0.1, 2


def linear_model():
    dense = keras.layers.Dense(5, use_bias=False)
    backbone = keras.Sequential([keras.Input((3, 3, 1)), keras.layers.Flatten(), dense])
    dense.kernel.assign(np.random.default_rng(0).normal(size=(9, 5)))
    head = ClusterHead(2)
    head.build((None, 5))
    return types.SimpleNamespace(backbone=backbone, head=head, kernel=dense.kernel)


def test_value_and_gradient_are_those_of_one_step_on_the_squared_difference():
    model = linear_model()
    x = np.random.default_rng(1).uniform(size=(6, 3, 3, 1)).astype("float32")
    images = ops.convert_to_tensor(x)

    def term():
        embeddings = model.backbone(images, training=True)
        return EmbeddingConsistency(4.0, EPS, seed=3)(model, images, embeddings, ops.convert_to_tensor(STEP))

    values, (gradient,) = value_and_gradients(term, model.kernel)

    kernel = np.asarray(model.kernel, "float64")
    noise = np.asarray(example_noise("uniform", 3, ops.convert_to_tensor(STEP), ops.arange(6), (3, 3, 1)))
    start = np.clip(x + EPS * noise, 0.0, 1.0)
    uphill = ((start - x).reshape(6, 9) @ kernel @ kernel.T).reshape(x.shape)
    twins = np.clip(np.clip(start + 1.25 * EPS * np.sign(uphill), x - EPS, x + EPS), 0.0, 1.0)
    moved = (twins - x).reshape(6, 9)
    assert_allclose(values, 4.0 * ((moved @ kernel) ** 2).mean(-1), rtol=1e-4)
    assert_allclose(gradient, 4.0 * 2.0 / 5 * moved.T @ moved @ kernel, rtol=1e-3, atol=6e-6)
    assert (np.abs(moved @ kernel) ** 2).sum() > 1.5 * (((start - x).reshape(6, 9) @ kernel) ** 2).sum()


def test_it_survives_its_config():
    term = EmbeddingConsistency(2.0, 0.1, 0.05, 3)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(term))
    assert isinstance(again, EmbeddingConsistency)
    assert vars(again) == vars(term)
