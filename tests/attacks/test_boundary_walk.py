import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

from clustr_keras.attacks import ClearFlips, slide_flips

SHAPE = (2, 3, 1)
DIM = 6


def sphere(images, radius=0.3):
    """Class 1 outside of a ball around grey: the distance to the boundary is known in closed form."""
    size = tf.sqrt(tf.reduce_sum((tf.reshape(images, (-1, DIM)) - 0.5) ** 2, axis=-1) + 1e-12)
    return tf.stack([radius - size, size - radius], axis=-1)


def norm(difference):
    return np.linalg.norm(difference.astype("float64").reshape(len(difference), -1), axis=1)


def far_flips(count=20, seed=0):
    generator = np.random.default_rng(seed)
    images = generator.uniform(0.44, 0.56, (count, *SHAPE)).astype("float32")
    adversarial = generator.choice([0.1, 0.9], (count, *SHAPE)).astype("float32")
    return images, adversarial, np.zeros(count, "int64")


def test_a_flip_slides_to_the_nearest_point_of_a_curved_boundary():
    images, adversarial, labels = far_flips()
    flips = ClearFlips(sphere, batch_size=8)
    truth = 0.3 - norm(images.astype("float64") - 0.5)
    straight = norm(flips.shrink(images, adversarial, labels) - images)
    slid = slide_flips(flips, images, adversarial, labels, steps=30)
    assert (straight > 1.02 * truth).mean() > 0.8  # there was something to gain
    assert (norm(slid - images) >= truth - 1e-6).all()
    assert_allclose(norm(slid - images), truth, rtol=5e-3)
    assert (flips.excess(slid, labels) > 0).all()


def test_more_moves_never_end_farther_away():
    images, adversarial, labels = far_flips(seed=1)
    flips = ClearFlips(sphere, batch_size=20)
    sizes = [norm(slide_flips(flips, images, adversarial, labels, steps=steps) - images) for steps in range(6)]
    assert (np.diff(sizes, axis=0) <= 0).all()
    assert (sizes[-1] < sizes[0]).any()


def test_the_box_is_kept_and_what_is_no_flip_stays_as_it_is():
    generator = np.random.default_rng(2)
    images = generator.uniform(0.0, 0.05, (10, *SHAPE)).astype("float32")
    adversarial = generator.uniform(0.9, 1.0, (10, *SHAPE)).astype("float32")

    def plane(batch):
        score = tf.reshape(batch, (-1, DIM)) @ tf.constant([[-1.0], [-1.0], [2.0], [1.0], [1.0], [1.0]]) - 1.0
        return tf.concat([-score, score], axis=-1)

    adversarial[::2] = images[::2]
    slid = slide_flips(ClearFlips(plane, 10), images, adversarial, np.zeros(10, "int64"))
    assert slid.min() >= 0
    assert slid.max() <= 1
    assert_array_equal(slid[::2], images[::2])
    assert (plane(slid).numpy().argmax(1)[1::2] == 1).all()


def test_a_flip_within_rounding_of_the_boundary_is_not_a_clear_one():
    def logits(batch):
        score = batch[:, 0, 0, 0] - 0.5
        return tf.stack([-score, score], axis=-1)

    images = np.full((3, *SHAPE), 0.5, "float32")
    images[:, 0, 0, 0] += np.array([1e-7, 1e-5, -1e-5], "float32")
    excess = ClearFlips(logits, 3).excess(images, np.zeros(3, "int64"))
    assert_array_equal(excess > 0, [False, True, False])


def test_the_slope_is_that_of_finite_differences_and_batches_do_not_matter():
    images, _, labels = far_flips(5, seed=3)
    slopes = [ClearFlips(sphere, batch_size=size).slope(images, labels) for size in (2, 5, 16)]
    assert_allclose(slopes[0], slopes[1], atol=1e-6)
    assert_allclose(slopes[0], slopes[2], atol=1e-6)
    offset = images.astype("float64") - 0.5
    # The margin is 2 (||x - grey|| - r).
    expected = 2 * offset / norm(offset).reshape(-1, 1, 1, 1)
    assert_allclose(slopes[0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("steps", [0, 3])
def test_progress_counts_the_moves_and_what_goes_in_is_not_changed(steps):
    images, adversarial, labels = far_flips(4)
    copies, seen = (images.copy(), adversarial.copy()), []
    slide_flips(ClearFlips(sphere, 4), images, adversarial, labels, steps, seen.append)
    assert seen == list(range(1, steps + 1))
    assert_array_equal(images, copies[0])
    assert_array_equal(adversarial, copies[1])
