import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

from clustr_keras.attacks import SquareAttack
from clustr_keras.attacks.square import _bump

SHAPE = (6, 5, 2)
norms = pytest.mark.parametrize(("norm", "order"), [("l_inf", np.inf), ("l_2", 2)])


class Steps:
    """Two classes split by a hyperplane through the middle of the cube, behind steps that have no gradient."""

    def __init__(self):
        self.normal = np.random.default_rng(0).normal(size=np.prod(SHAPE)).astype("float32")

    def __call__(self, images):
        score = tf.linalg.matvec(tf.reshape(images - 0.5, (-1, self.normal.size)), self.normal)
        score = tf.round(score * 1000.0) / 1000.0
        return tf.stack([-score, score], axis=-1)

    def classes(self, images):
        return self(images).numpy().argmax(-1)

    def distance(self, images, order):
        score = (images - 0.5).reshape(len(images), -1) @ self.normal.astype("float64")
        return np.abs(score) / np.linalg.norm(self.normal, ord=1 if order == np.inf else 2)


def images_of(count):
    return np.random.default_rng(1).uniform(0.3, 0.7, (count, *SHAPE)).astype("float32")


@norms
def test_it_flips_beyond_the_boundary_without_a_gradient_and_nowhere_before(norm, order):
    model, images = Steps(), images_of(20)
    labels, distance = model.classes(images), model.distance(images, order)
    attack = SquareAttack(model, norm, queries=1000, batch_size=8)
    far = attack(images, labels, np.minimum(1.5 * distance + 0.01, 0.3 if norm == "l_inf" else 2.0))
    assert far.is_flipped.mean() > 0.8
    assert_array_equal(model.classes(far.adversarial) != labels, far.is_flipped)
    assert_array_equal(model.classes(far.adversarial), far.class_ids)
    assert not attack(images, labels, 0.97 * distance).is_flipped.any()


@norms
def test_what_it_tries_lies_in_the_ball_and_the_box(norm, order):
    model, images = Steps(), images_of(9)
    eps = np.linspace(0.0, 0.5, 9)
    result = SquareAttack(model, norm, queries=60, batch_size=4)(images, model.classes(images), eps)
    distance = np.linalg.norm((result.adversarial.astype("float64") - images).reshape(9, -1), ord=order, axis=-1)
    assert_allclose(result.distance, distance)
    assert (distance <= eps).all()
    assert distance[-1] > 0.2
    assert result.adversarial.min() >= 0
    assert result.adversarial.max() <= 1


def test_a_seed_repeats_itself_and_another_does_not():
    model, images = Steps(), images_of(5)
    labels = model.classes(images)
    runs = [SquareAttack(model, "l_inf", 60, seed=seed)(images, labels, 0.01).adversarial for seed in (0, 0, 1)]
    assert_array_equal(runs[0], runs[1])
    assert (runs[0] != runs[2]).any()


def test_patches_get_smaller_and_the_search_gets_nearer():
    attack = SquareAttack(Steps(), "l_inf", queries=1000)
    sides = [attack._side(query, (28, 28)) for query in range(0, 1000, 50)]
    assert sides == sorted(sides, reverse=True)
    assert (sides[0], sides[-1]) == (9, 1)
    images = images_of(8)
    labels = Steps().classes(images)
    margins = []
    for queries in (1, 50, 400):
        result = SquareAttack(Steps(), "l_inf", queries)(images, labels, 0.02)
        logits = Steps()(result.adversarial).numpy()
        margins.append((logits[np.arange(8), 1 - labels] - logits[np.arange(8), labels]).mean())
    assert margins == sorted(margins)


def test_progress_counts_what_is_over():
    seen = []
    model, images = Steps(), images_of(5)
    attack = SquareAttack(model, "l_2", queries=120, batch_size=2)
    attack(images, model.classes(images), 0.001, progress=seen.append)
    assert seen == [5 * 50, 5 * 100, 5 * 120]
    assert attack.attempts(5) == seen[-1]


@pytest.mark.parametrize("side", [2, 3, 5, 8])
def test_bumps_have_norm_one_and_two_halves_of_opposite_sign(side):
    bump = _bump(side)
    assert_allclose(np.linalg.norm(bump), 1.0, rtol=1e-6)
    assert (bump[: side // 2] > 0).all()
    assert (bump[side // 2 :] < 0).all()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [({"norm": "l_1"}, "norm must"), ({"queries": 0}, "at least 1"), ({"area": 0.0}, "area must be a share")],
)
def test_arguments_are_checked(arguments, match):
    with pytest.raises(ValueError, match=match):
        SquareAttack(Steps(), **arguments)


def test_logits_must_be_finite():
    def broken(images):
        return tf.fill((tf.shape(images)[0], 2), float("nan"))

    with pytest.raises(ValueError, match="not finite"):
        SquareAttack(broken)(images_of(2), [0, 1], 0.1)
