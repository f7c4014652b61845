import numpy as np
import pytest
import tensorflow as tf
from cleverhans.tf2.utils import optimize_linear
from numpy.testing import assert_allclose, assert_array_equal

from clustr_keras.attacks import CarliniWagner, ProjectedGradientDescent, cross_entropy, dlr, margin
from clustr_keras.attacks.steps import ascent_step, input_gradient

RNG = np.random.default_rng(0)
GRADIENT = RNG.normal(size=(5, 3, 4, 2)).astype("float32")
STEP = np.full((5, 1, 1, 1), 0.3, "float32")
WEIGHTS = RNG.normal(size=(12, 4)).astype("float32")
IMAGES = RNG.uniform(0.3, 0.7, (8, 3, 4, 1)).astype("float32")


def linear(images, scale=1.0):
    return scale * (tf.reshape(images, (-1, 12)) - 0.5) @ WEIGHTS


def labels():
    return np.asarray(linear(IMAGES)).argmax(axis=-1)


@pytest.mark.parametrize(("norm", "order"), [("l_inf", np.inf), ("l_2", 2)])
@pytest.mark.parametrize("scale", [1e-35, 1e-20, 1.0, 1e15, 1e35])
def test_a_step_is_that_of_cleverhans_for_logits_of_any_scale(norm, order, scale):
    scale = np.float32(scale)
    expected = optimize_linear(tf.constant(GRADIENT), STEP, order)
    assert_allclose(ascent_step(tf.constant(scale * GRADIENT), STEP, norm), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("norm", ["l_inf", "l_2"])
def test_without_a_gradient_there_is_no_step(norm):
    assert_array_equal(ascent_step(tf.zeros_like(GRADIENT), STEP, norm), np.zeros_like(GRADIENT))


def test_a_gradient_is_finite_whatever_the_model_gives():
    x = tf.constant([[[[0.0], [1.0], [4.0]]]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        values = tf.reduce_sum(tf.sqrt(x) + 0.0 * tf.math.log(x), (1, 2, 3))
    gradient = input_gradient(values, x, tape)
    assert np.isfinite(gradient).all()
    assert_allclose(gradient[0, 0, 1:, 0], [0.5, 0.25])


@pytest.mark.parametrize("make", [
    lambda logits: ProjectedGradientDescent(logits, "l_2", 10, 1, loss=margin),
    lambda logits: ProjectedGradientDescent(logits, "l_2", 10, 1, loss=dlr),
    lambda logits: ProjectedGradientDescent(logits, "l_2", 10, 1, loss=margin, decay=True),
    lambda logits: CarliniWagner(logits, steps=50),
])  # fmt: skip
@pytest.mark.parametrize("scale", [1e-25, 1e15])
def test_attacks_find_the_same_whatever_the_scale_of_the_logits(make, scale):
    expected = make(linear)(IMAGES, labels(), 0.4)
    found = make(lambda images: linear(images, scale))(IMAGES, labels(), 0.4)
    assert expected.is_flipped.sum() > 0
    assert_array_equal(found.is_flipped, expected.is_flipped)
    assert_allclose(found.adversarial, expected.adversarial, atol=1e-3)


@pytest.mark.parametrize("norm", ["l_inf", "l_2"])
def test_a_model_without_a_gradient_is_attacked_all_the_same(norm):
    attack = ProjectedGradientDescent(
        lambda images: linear(tf.round(8.0 * images) / 8.0), norm, 5, 2, 0.1, cross_entropy
    )
    result = attack(IMAGES, labels(), 0.2)
    assert (result.distance <= 0.2).all()


def test_seeds_share_no_starts():
    def starts(seed):
        attack = ProjectedGradientDescent(lambda images: 0.0 * linear(images), "l_inf", 1, 2, seed=seed)
        return {row.tobytes() for row in np.asarray(attack._random_directions([8, 3, 4, 1], [seed, 1], tf.range(8)))}

    assert len(starts(0) | starts(1)) == 16
