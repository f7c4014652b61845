import keras
import numpy as np
import pytest
import tensorflow as tf

from clustr_keras.evaluation.diagnostics import Diagnostics
from clustr_keras.evaluation.flips import Flips
from clustr_keras.evaluation.stages import Stages
from clustr_keras.evaluation.surrogate import train_surrogate
from clustr_keras.evaluation.target import Target

COUNT = 60
EPS = 0.15
# What the networks below hide, or do not, shows with less than the default too.
QUICK = {"steps": 40, "restarts": 2, "queries": 400}


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


def diagnose(logits, data, surrogate=None, count=COUNT, norm="l_inf", eps=EPS, effort=QUICK):
    flips = Flips(data[0][:count], np.asarray(data[1][:count], "int64"))
    target = Target(logits, (8, 8, 1), 10, "under test")
    class_ids, _ = target.predict(flips.images)
    run, notes = Diagnostics(target, norm, eps, surrogate, batch_size=64, **effort), []
    found = {found.name: found for found in run(np.arange(count), class_ids, flips, Stages(None), notes.append)}
    assert len(notes) == run.attack_count
    return found


def failed(found):
    return {name for name, diagnostic in found.items() if diagnostic.passed is False}


def test_an_honest_network_passes_them_all(network, digits):
    surrogate = train_surrogate(Target(network, (8, 8, 1), 10, "network"), digits[0][0][:400], epochs=3, width=8)
    found = diagnose(network, digits[1], surrogate, effort={})
    assert len(found) == 10
    assert all(diagnostic.passed for diagnostic in found.values()), found
    assert found["large eps does not reach 0"].figures == {"accuracy at eps = 1": 0.0}


def test_a_deliberately_masked_network_is_caught(network, digits):
    """Logits scaled by 1e4, then clipped: nearly everywhere flat."""

    def masked(images):
        return tf.clip_by_value(1e4 * network(images), -50.0, 50.0) + 1e-3 * tf.stop_gradient(network(images))

    found = diagnose(masked, digits[1], network, effort={})
    assert {"vanishing gradients", "transfer beats white box", "large eps does not reach 0"} <= failed(found)
    assert found["vanishing gradients"].figures["without gradient"] > 0.5


def test_votes_that_vanish_are_caught(network, digits):
    """As the paper's votes do, away from the centers."""
    found = diagnose(lambda images: tf.exp(2.0 * network(images) - 20.0), digits[1])
    assert {"cross-entropy saturates", "scores saturate"} <= failed(found)


def test_gradients_that_lead_astray_are_caught(network, digits):
    """A ripple that is finer than the attack's steps turns the gradient around, and leaves the values as they are."""

    def rippled(images):
        logits = network(images)
        return logits + 1e-3 * tf.sin(1e6 * logits)

    found = diagnose(rippled, digits[1], network)
    assert found["vanishing gradients"].passed
    assert {"gradients mislead", "black box beats white box", "transfer beats white box"} <= failed(found)


def test_pixels_that_are_rounded_have_no_gradient(network, digits):
    assert "vanishing gradients" in failed(diagnose(lambda images: network(tf.round(4 * images) / 4), digits[1]))


def test_gradients_of_other_classes_are_caught(network, digits):
    """The values are right; the gradient is that of the logits in another order."""

    def turned(images):
        logits = network(images)
        other = tf.roll(logits, 1, axis=-1)
        return other + tf.stop_gradient(logits - other)

    assert {"gradients mislead", "black box beats white box"} <= failed(diagnose(turned, digits[1]))


def test_steps_with_a_gradient_that_is_made_up_are_caught(network, digits):
    """Only the class is told, and the gradient leads back."""

    def of_class(images):
        logits = network(images)
        return tf.one_hot(tf.argmax(logits, axis=-1), 10) - 1e-3 * (logits - tf.stop_gradient(logits))

    assert "gradients mislead" in failed(diagnose(of_class, digits[1]))


def test_answers_at_random_are_caught(network, digits):
    def noisy(images):
        return network(images + tf.random.normal(tf.shape(images), stddev=0.1))

    assert "answers change" in failed(diagnose(noisy, digits[1]))


def test_the_scale_of_the_logits_changes_nothing(network, digits):
    scales = (1.0, 1e-20, 1e10)
    expected, *found = (
        diagnose(
            lambda images, scale=scale: scale * network(images),
            digits[1],
            norm="l_2",
            eps=0.6,
            effort={"queries": 50},
        )
        for scale in scales
    )
    assert expected["transfer beats white box"].passed is None  # there is no surrogate
    for name in ("gradients mislead", "more effort still helps"):
        for of_scale in found:
            assert of_scale[name].passed
            for figure, share in expected[name].figures.items():
                assert of_scale[name].figures[figure] == pytest.approx(share, abs=0.04)


def test_few_examples_say_nothing(network, digits):
    found = diagnose(network, digits[1], count=20)
    assert found["black box beats white box"].passed is None
    assert found["vanishing gradients"].passed


def test_a_model_that_is_always_wrong_shows_nothing(network, digits):
    images, labels = digits[1]
    run = Diagnostics(Target(network, (8, 8, 1), 10, "wrong"), "l_inf", EPS)
    with pytest.raises(ValueError, match="none of these examples right"):
        run(np.arange(4), (labels[:4] + 1) % 10, Flips(images[:4], labels[:4]), Stages(None))
