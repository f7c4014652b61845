import re
import sys

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_array_equal

from clustr_keras.attacks import ProjectedGradientDescent
from clustr_keras.attacks.auto_attack import AutoAttack
from clustr_keras.installation import install_command

SHAPE = (4, 4, 1)


class Linear:
    """Classes by the largest of some linear functions of the pixels."""

    def __init__(self, classes):
        generator = np.random.default_rng(0)
        self.weights = tf.constant(generator.normal(size=(16, classes)), tf.float32)

    def __call__(self, images):
        return tf.reshape(images - 0.5, (-1, 16)) @ self.weights

    def classes(self, images):
        return self(tf.constant(images)).numpy().argmax(-1)


def images_of(count):
    return np.random.default_rng(1).uniform(0.3, 0.7, (count, *SHAPE)).astype("float32")


def attack_of(model, classes, norm, **arguments):
    pytest.importorskip("art", reason="the extra autoattack is not installed")
    return AutoAttack(model, classes, SHAPE, norm, **{"steps": 20, "queries": 100, "batch_size": 16, **arguments})


@pytest.mark.parametrize("norm", ["l_2", "l_inf"])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_of_a_linear_classifier_it_flips_what_is_within_reach(norm, classes):
    model, images = Linear(classes), images_of(20)
    labels = model.classes(images)
    eps = 0.08 if norm == "l_2" else 0.025
    result = attack_of(model, classes, norm)(images, labels, eps)
    order = np.inf if norm == "l_inf" else 2
    difference = (result.adversarial.astype("float64") - images).reshape(20, -1)
    assert (np.linalg.norm(difference, ord=order, axis=-1) <= eps).all()
    assert_array_equal(model.classes(result.adversarial) != labels, result.is_flipped)
    assert 0 < result.is_flipped.mean() < 1
    # Against a linear classifier PGD on the margin is exact up to the length of its last step.
    ours = ProjectedGradientDescent(model, norm, steps=50, restarts=5)(images, labels, eps)
    assert abs(ours.is_flipped.sum() - result.is_flipped.sum()) <= 1


def test_a_seed_repeats_itself_and_the_global_generator_is_left_alone():
    model, images = Linear(4), images_of(6)
    labels = model.classes(images)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    runs = [attack_of(model, 4, "l_inf", seed=seed)(images, labels, 0.04).adversarial for seed in (0, 0)]
    assert_array_equal(*runs)
    assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_eps_must_be_one_for_all():
    model = Linear(3)
    with pytest.raises(ValueError, match="one positive eps"):
        attack_of(model, 3, "l_2")(images_of(2), [0, 1], [0.1, 0.2])


def test_without_art_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "art.attacks.evasion", None)
    monkeypatch.delitem(sys.modules, "clustr_keras.attacks.art_estimator", raising=False)
    with pytest.raises(ImportError, match=re.escape(install_command("autoattack"))):
        AutoAttack(Linear(3), 3, SHAPE)
