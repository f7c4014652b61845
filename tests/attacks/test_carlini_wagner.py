import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

from clustr_keras.attacks import CarliniWagner

SHAPE = (3, 4, 1)
DIM = 12


class Linear:
    """Two classes split by a hyperplane, with the distance to it known in closed form. Counts its runs in Python."""

    def __init__(self, seed=0):
        self.normal = np.random.default_rng(seed).normal(size=DIM).astype("float32")
        self.normal /= np.linalg.norm(self.normal)
        self.offset = np.float32(-0.5 * self.normal.sum())
        self.python_runs = 0

    def __call__(self, images):
        self.python_runs += 1
        score = tf.linalg.matvec(tf.reshape(images, (-1, DIM)), self.normal) + self.offset
        return tf.stack([-score, score], axis=-1)

    def distance(self, images):
        score = images.reshape(-1, DIM).astype("float64") @ self.normal.astype("float64") + float(self.offset)
        return np.abs(score), (score > 0).astype("int64")


def images_of(count, seed=0, low=0.3, high=0.7):
    return np.random.default_rng(seed).uniform(low, high, (count, *SHAPE)).astype("float32")


def norm(difference):
    return np.linalg.norm(difference.astype("float64").reshape(len(difference), -1), axis=1)


@pytest.fixture(scope="module")
def linear():
    model = Linear()
    return model, CarliniWagner(model, batch_size=16)


def test_its_flips_are_the_smallest_there_are(linear):
    model, attack = linear
    images = images_of(24)
    distance, labels = model.distance(images)
    result = attack(images, labels, eps=3.0)
    assert result.is_flipped.all()
    assert (result.distance >= distance - 1e-6).all()
    assert (result.distance <= 1.05 * distance + 5e-3).all()


def test_examples_of_a_batch_have_constants_of_their_own(linear):
    model, attack = linear
    images = images_of(16, 1)
    _, labels = model.distance(images)
    together = attack(images, labels, 3.0)
    alone = attack(images[5:6], labels[5:6], 3.0)
    assert_allclose(alone.adversarial[0], together.adversarial[5], atol=1e-5)


def test_a_flip_farther_than_eps_is_none(linear):
    model, attack = linear
    images = images_of(16, 2)
    distance, labels = model.distance(images)
    result = attack(images, labels, 0.9 * distance)
    assert not result.is_flipped.any()
    assert (norm(result.adversarial - images) <= 0.9 * distance).all()
    assert (result.distance > 0.8 * distance - 1e-3).all()  # the attempt still goes as far as it may
    assert_array_equal(result.class_ids, labels)
    assert attack(images, labels, 1.1 * distance + 5e-3).is_flipped.all()


def test_it_reports_what_the_images_are(linear):
    model, attack = linear
    images = np.random.default_rng(3).choice([0.0, 1.0, 0.2, 0.9], (20, *SHAPE)).astype("float32")
    _, labels = model.distance(images)
    eps = np.linspace(0.0, 1.0, 20)
    result = attack(images, labels, eps)
    assert (norm(result.adversarial.astype("float64") - images.astype("float64")) <= eps).all()
    assert_allclose(result.distance, norm(result.adversarial.astype("float64") - images.astype("float64")), rtol=1e-12)
    assert result.adversarial.dtype == np.float32
    assert result.adversarial.min() >= 0
    assert result.adversarial.max() <= 1
    assert_array_equal(result.class_ids, model(result.adversarial).numpy().argmax(1))
    assert_array_equal(result.is_flipped, result.class_ids != labels)


def test_an_example_that_is_wrong_already_is_a_flip_of_next_to_no_size(linear):
    model, attack = linear
    images = images_of(8, 4)
    _, classes = model.distance(images)
    result = attack(images, 1 - classes, 3.0)
    assert result.is_flipped.all()
    assert (result.distance < 1e-4).all()


def test_the_model_is_traced_once_over_calls_and_batches(linear):
    model, attack = linear
    images = images_of(20, 5)
    _, labels = model.distance(images)
    attack(images[:3], labels[:3], 1.0)
    model.python_runs = 0
    attack(images, labels, 0.5)
    assert model.python_runs == 0


def test_progress_rises_to_the_number_of_attempts(linear):
    model, attack = linear
    images = images_of(20, 6)
    seen = []
    attack(images, model.distance(images)[1], 1.0, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == attack.attempts(20) == 120
    assert attack.name == "Carlini-Wagner l_2, 200 steps x 6 constants"


@pytest.mark.parametrize("argument", ["steps", "searches", "batch_size"])
def test_counts_below_one_are_refused(argument):
    with pytest.raises(ValueError, match="must be at least 1"):
        CarliniWagner(Linear(), **{argument: 0})


@pytest.mark.parametrize("argument", ["learning_rate", "initial_constant"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_rates_that_lead_nowhere_are_refused(argument, value):
    with pytest.raises(ValueError, match="must be positive"):
        CarliniWagner(Linear(), **{argument: value})


def test_logits_that_are_not_finite_are_refused():
    def broken(images):
        return tf.stack([images[:, 0, 0, 0], images[:, 0, 0, 0] / 0.0], axis=-1)

    with pytest.raises(ValueError, match="not finite"):
        CarliniWagner(broken, steps=2, searches=1, batch_size=2)(images_of(2), np.zeros(2, int), 1.0)


def test_what_is_no_ball_is_refused(linear):
    _, attack = linear
    with pytest.raises(ValueError, match="eps must be finite and at least 0; got -1"):
        attack(images_of(2), np.zeros(2, int), -1.0)
