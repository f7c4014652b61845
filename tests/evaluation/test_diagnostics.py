import keras
import numpy as np
import pytest
import tensorflow as tf

from clustr_keras.evaluation.diagnostics import Diagnostics
from clustr_keras.evaluation.stages import Stages
from clustr_keras.evaluation.surrogate import train_surrogate
from clustr_keras.evaluation.target import Target

COUNT = 60
EPS = 0.15


@pytest.fixture(scope="module")
def network(digits):
    """A small network with logits as they should be."""
    (images, labels), _ = digits
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(32, "relu"), keras.layers.Dense(10)]
    )
    model.compile(keras.optimizers.Adam(5e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images, labels, epochs=10, verbose=0)
    return model


def diagnose(logits, data, surrogate=None):
    images, labels = data[0][:COUNT], np.asarray(data[1][:COUNT], "int64")
    target = Target(logits, (8, 8, 1), 10, "under test")
    class_ids, _ = target.predict(images)
    run = Diagnostics(target, "l_inf", EPS, surrogate, batch_size=64)
    return {found.name: found for found in run(images, labels, class_ids, Stages(None))}


def test_an_honest_network_passes_them_all(network, digits):
    surrogate = train_surrogate(Target(network, (8, 8, 1), 10, "network"), digits[0][0][:400], epochs=3, width=8)
    found = diagnose(network, digits[1], surrogate)
    assert len(found) == 6
    assert all(diagnostic.passed for diagnostic in found.values()), found
    assert found["large eps does not reach 0"].figures == {"accuracy at eps = 1": 0.0}


def test_a_deliberately_masked_network_is_caught(network, digits):
    """Logits scaled by 1e4, then clipped: nearly everywhere flat."""

    def masked(images):
        return tf.clip_by_value(1e4 * network(images), -50.0, 50.0) + 1e-3 * tf.stop_gradient(network(images))

    found = diagnose(masked, digits[1], network)
    failed = {name for name, diagnostic in found.items() if diagnostic.passed is False}
    assert {"vanishing gradients", "transfer beats white box", "large eps does not reach 0"} <= failed
    assert found["vanishing gradients"].figures["without gradient"] > 0.5


def test_gradients_that_lead_astray_are_caught(network, digits):
    """A ripple that is finer than the attack's steps turns the gradient around, and leaves the values as they are."""

    def rippled(images):
        logits = network(images)
        return logits + 1e-3 * tf.sin(1e6 * logits)

    found = diagnose(rippled, digits[1], network)
    assert found["vanishing gradients"].passed
    assert found["black box beats white box"].passed is False
    assert found["transfer beats white box"].passed is False


def test_without_a_surrogate_its_diagnostic_is_not_run(network, digits):
    assert diagnose(network, digits[1])["transfer beats white box"].passed is None


def test_a_model_that_is_always_wrong_shows_nothing(network, digits):
    images, labels = digits[1]
    run = Diagnostics(Target(network, (8, 8, 1), 10, "wrong"), "l_inf", EPS)
    with pytest.raises(ValueError, match="none of these examples right"):
        run(images[:4], labels[:4], (labels[:4] + 1) % 10, Stages(None))
