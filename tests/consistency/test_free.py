import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

from clustr_keras import ClustrClassifier
from clustr_keras.consistency import FreeAdversarialTraining

EPS = 0.06


def smooth_classifier(**kwargs):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), keras.layers.Dense(8, "tanh", **kwargs), keras.layers.Dense(3, **kwargs)]
    return ClustrClassifier(keras.Sequential([keras.Input((3, 3, 1)), *layers]), 4, **kwargs)


@pytest.fixture
def batch():
    """10 images, with pixels at 0 and at 1, and labels."""
    rng = np.random.default_rng(0)
    x = np.clip(rng.uniform(-0.1, 1.1, size=(10, 3, 3, 1)), 0.0, 1.0)
    return x.astype("float32"), rng.integers(0, 4, 10)


def by_hand(model, batches, replays, rate, size):
    """Gradient descent on cross-entropy, and delta, replay by replay."""
    delta, losses = np.zeros((size, 3, 3, 1), "float32"), []
    for x, y in batches:
        for _ in range(replays):
            perturbed = tf.constant(np.clip(x + delta[: len(x)], 0.0, 1.0))
            with tf.GradientTape() as tape:
                tape.watch(perturbed)
                log_probabilities = tf.nn.log_softmax(model.head(model.backbone(perturbed)))
                loss = -tf.reduce_mean(tf.gather(log_probabilities, y, batch_dims=1))
            weights = [variable.value for variable in model.trainable_variables]
            *gradients, of_images = tape.gradient(loss, [*weights, perturbed])
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.assign_sub(rate * gradient)
            delta[: len(x)] = np.clip(delta[: len(x)] + EPS * np.sign(of_images), -EPS, EPS)
            losses.append(float(loss))
    return delta, losses


def compiled(free, run_eagerly=False, **kwargs):
    model = smooth_classifier(**kwargs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5), loss, free=free, run_eagerly=run_eagerly)
    return model


@pytest.mark.parametrize("replays", [1, 3])
def test_one_batch_is_replayed_as_by_hand(batch, replays):
    free = FreeAdversarialTraining(10, EPS, replays)
    model, expected = compiled(free), smooth_classifier()
    assert_array_equal(free.delta, 0.0)
    logs = model.train_on_batch(*batch, return_dict=True)
    delta, losses = by_hand(expected, [batch], replays, 0.5, 10)
    for weight, of_hand in zip(model.trainable_variables, expected.trainable_variables, strict=True):
        assert_allclose(weight, of_hand, atol=1e-5)
    assert_allclose(free.delta, delta, atol=1e-7)
    assert np.abs(free.delta).max() == pytest.approx(EPS)
    assert_allclose(logs["loss"], np.mean(losses), rtol=1e-5)
    assert int(model.optimizer.iterations) == replays


def test_delta_is_carried_from_batch_to_batch_and_a_smaller_batch_uses_its_first_places(batch):
    x, y = batch
    free = FreeAdversarialTraining(4, EPS, 2)
    model, expected = compiled(free), smooth_classifier()
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    batches = [(x[at : at + 4], y[at : at + 4]) for at in (0, 4, 8)]
    delta, _ = by_hand(expected, batches, 2, 0.5, 4)
    for weight, of_hand in zip(model.trainable_variables, expected.trainable_variables, strict=True):
        assert_allclose(weight, of_hand, atol=1e-5)
    assert_allclose(free.delta, delta, atol=1e-7)
    assert int(model.optimizer.iterations) == 6


def test_it_trains_in_half_precision(batch):
    free = FreeAdversarialTraining(10, EPS, 3)
    model, plain = (compiled(each, run_eagerly=True, dtype="mixed_float16") for each in (free, None))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    for _ in range(4):
        model.train_on_batch(*batch)
        plain.train_on_batch(*batch)
    assert all(np.isfinite(weight).all() for weight in model.trainable_variables)
    assert np.abs(free.delta).max() == pytest.approx(EPS)
    assert int(model.optimizer.iterations) == 3 * int(plain.optimizer.iterations) > 0


def test_it_survives_its_config():
    free = FreeAdversarialTraining(10, 0.05, 3)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(free))
    assert isinstance(again, FreeAdversarialTraining)
    assert vars(again) == vars(free)


def test_a_batch_larger_than_delta_is_refused(batch):
    model = compiled(FreeAdversarialTraining(4, EPS, 2))
    with pytest.raises(ValueError, match=r"batch_size=4.*got a batch of 10"):
        model.train_on_batch(*batch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be an integer of at least 1; got 0"),
        ({"batch_size": 2.5}, "batch_size must be an integer of at least 1; got 2.5"),
        ({"replays": 0}, "replays must be an integer of at least 1; got 0"),
        ({"eps": 8}, r"eps must lie in \(0, 1\], for pixels in \[0, 1\]; got 8"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FreeAdversarialTraining(**{"batch_size": 10, **arguments})
