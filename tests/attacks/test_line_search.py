import numpy as np
from numpy.testing import assert_array_equal

from clustr_keras.attacks import shrink_flips

SHAPE = (2, 3, 1)


def linear(images):
    """Class 1 where the mean exceeds 0.5."""
    return (np.asarray(images, "float64").mean(axis=(1, 2, 3)) > 0.5).astype("int64")


def norm(difference):
    return np.linalg.norm(difference.astype("float64").reshape(len(difference), -1), axis=1)


def flips(seed=0, count=20):
    generator = np.random.default_rng(seed)
    images = generator.uniform(0.0, 0.45, (count, *SHAPE)).astype("float32")
    adversarial = generator.uniform(0.6, 1.0, (count, *SHAPE)).astype("float32")
    return images, adversarial


def test_a_flip_ends_just_behind_the_boundary_on_the_segment_to_its_image():
    images, adversarial = flips()
    shrunk = shrink_flips(linear, images, adversarial, np.zeros(20, int), steps=12)
    assert_array_equal(linear(shrunk), 1)
    # Where the segment meets the boundary, in closed form; a bisection ends at most 2^-12 of the segment behind it.
    means = [array.astype("float64").mean(axis=(1, 2, 3)) for array in (images, adversarial)]
    share = (0.5 - means[0]) / (means[1] - means[0])
    reached = norm(shrunk - images) / norm(adversarial - images)
    assert (reached >= share - 1e-6).all()
    assert (reached <= share + 2.0**-12 + 1e-6).all()
    on_segment = images + reached.reshape(-1, 1, 1, 1) * (adversarial.astype("float64") - images)
    np.testing.assert_allclose(shrunk, on_segment, atol=1e-6)


def test_more_steps_never_make_it_larger():
    images, adversarial = flips(1)
    sizes = [
        norm(shrink_flips(linear, images, adversarial, np.zeros(20, int), steps=steps) - images) for steps in range(14)
    ]
    assert_array_equal(sizes[0], norm(adversarial - images))
    assert (np.diff(sizes, axis=0) <= 0).all()


def test_rows_that_are_not_flipped_stay_as_they_are_beside_those_that_are():
    images, adversarial = flips(2)
    adversarial[::2] = images[::2] + 0.01
    shrunk = shrink_flips(linear, images, adversarial, np.zeros(20, int))
    assert_array_equal(shrunk[::2], adversarial[::2])
    assert (norm(shrunk - images)[1::2] < norm(adversarial - images)[1::2]).all()


def test_an_answer_that_flips_to_and_fro_still_ends_flipped():
    def bands(images):
        return (np.floor(np.asarray(images, "float64").mean(axis=(1, 2, 3)) * 10) % 2).astype("int64")

    images = np.full((30, *SHAPE), 0.05, "float32")
    adversarial = np.random.default_rng(3).uniform(0.1, 1.0, (30, *SHAPE)).astype("float32")
    before = bands(adversarial)
    shrunk = shrink_flips(bands, images, adversarial, np.zeros(30, int))
    assert_array_equal(bands(shrunk), before)
    assert set(before) == {0, 1}


def test_what_goes_in_is_not_changed():
    images, adversarial = flips(4)
    copies = images.copy(), adversarial.copy()
    shrunk = shrink_flips(linear, images, adversarial, np.zeros(20, int))
    assert shrunk.dtype == np.float32
    assert shrunk.shape == images.shape
    assert_array_equal(images, copies[0])
    assert_array_equal(adversarial, copies[1])
