import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_array_equal
from support.pgd_networks import DIM, SHAPE, Network, images_of, norm_of, norms

from clustr_keras.attacks import ProjectedGradientDescent, TargetedProjectedGradientDescent


class Valley:
    """Three classes on one pixel. Class 1 is the runner-up everywhere but never wins; class 2 wins for dark images."""

    def __call__(self, images):
        x = tf.reduce_mean(images, axis=(1, 2, 3))
        return tf.stack([tf.ones_like(x), 0.9 + 0.05 * x, 4.0 * (0.45 - x)], axis=-1)


@norms
def test_targets_reach_a_class_that_is_not_the_runner_up(norm):
    images = np.full((3, *SHAPE), 0.5, "float32")
    labels = np.zeros(3, "int64")
    eps = 0.35 if norm == "l_inf" else 0.35 * DIM**0.5
    untargeted = ProjectedGradientDescent(Valley(), norm, steps=10, restarts=1)(images, labels, eps)
    targeted = TargetedProjectedGradientDescent(Valley(), norm, steps=10, targets=2)(images, labels, eps)
    assert not untargeted.is_flipped.any()
    assert targeted.is_flipped.all()
    assert_array_equal(targeted.class_ids, [2, 2, 2])
    assert (norm_of(targeted.adversarial - images, norm) <= eps).all()


def test_the_number_of_targets_is_checked_and_named():
    attack = TargetedProjectedGradientDescent(Network(), "l_2", targets=4)
    assert attack.name == "targeted PGD l_2, 20 steps x 4 targets"
    with pytest.raises(ValueError, match="4 targets need more classes than that; got 4"):
        attack(images_of(2), [0, 1], 0.1)
