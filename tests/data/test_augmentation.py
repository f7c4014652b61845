import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from clustr_keras.data import CropAndFlip, RandomAffine, batch_generator, default_augmentation


def images_of(*shape, dtype="uint8"):
    return np.random.default_rng(0).integers(1, 256, shape).astype(dtype)


def reflected(place, size):
    """The pixel that a mirror at each edge shows at a place."""
    place %= 2 * size
    return min(place, 2 * size - 1 - place)


def every_outcome(image, padding, flip, fill_mode="constant"):
    """All images that one image may become, by (rows down, columns right, flipped)."""
    height, width = image.shape[:2]
    outcomes = {}
    for down in range(-padding, padding + 1):
        for right in range(-padding, padding + 1):
            moved = np.zeros_like(image)
            for y in range(height):
                for x in range(width):
                    if fill_mode == "reflect":
                        moved[y, x] = image[reflected(y + down, height), reflected(x + right, width)]
                    elif 0 <= y + down < height and 0 <= x + right < width:
                        moved[y, x] = image[y + down, x + right]
            outcomes[down, right, False] = moved
            if flip:
                outcomes[down, right, True] = np.stack([moved[:, width - 1 - x] for x in range(width)], axis=1)
    return outcomes


@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6), st.integers(1, 4)),
    padding=st.integers(0, 3),
    flip=st.booleans(),
    fill_mode=st.sampled_from(["constant", "reflect"]),
    dtype=st.sampled_from(["uint8", "float32"]),
    seed=st.integers(0, 2**32),
)
def test_every_image_becomes_one_of_its_crops(shape, padding, flip, fill_mode, dtype, seed):
    if fill_mode == "reflect":
        padding = min(padding, *shape[1:3])
    images = images_of(*shape, dtype=dtype)
    before = images.copy()
    augmented = CropAndFlip(padding, flip, fill_mode)(images, np.random.default_rng(seed))
    assert augmented.dtype == images.dtype
    assert augmented.shape == images.shape
    assert_array_equal(images, before)
    for image, result in zip(images, augmented, strict=True):
        outcomes = every_outcome(image, padding, flip, fill_mode).values()
        assert any(np.array_equal(result, outcome) for outcome in outcomes)


def test_all_outcomes_are_equally_likely_and_images_move_apart():
    padding = 1
    image = images_of(3, 4, 2)
    outcomes = [outcome.tobytes() for outcome in every_outcome(image, padding, flip=True).values()]
    assert len(set(outcomes)) == 18
    images = np.repeat(image[None], 18 * 400, axis=0)
    augmented = CropAndFlip(padding)(images, np.random.default_rng(0))
    drawn = np.array([outcomes.index(result.tobytes()) for result in augmented])
    counts = np.bincount(drawn, minlength=18)
    # 400 each in the mean, with a standard deviation of 19.
    assert counts.min() > 300
    assert counts.max() < 500
    # What happens to one image says nothing about the next: 1 in 18 pairs agrees.
    assert abs(np.mean(drawn[1:] == drawn[:-1]) - 1 / 18) < 0.015


def test_without_padding_and_flip_nothing_changes():
    images = images_of(5, 4, 3, 2)
    assert_array_equal(CropAndFlip(padding=0, flip=False)(images, np.random.default_rng(0)), images)


def test_the_generator_decides_alone():
    images, augment = images_of(50, 8, 8, 3), CropAndFlip()
    first = augment(images, batch_generator(1, 2, 3))
    assert_array_equal(first, augment(images, batch_generator(1, 2, 3)))
    for other in [(2, 2, 3), (1, 3, 3), (1, 2, 4), (3, 2, 1), (2, 1, 3)]:
        assert not np.array_equal(first, augment(images, batch_generator(*other)))


def test_generators_of_different_batches_are_streams_apart():
    draws = {
        tuple(batch_generator(s, e, b).integers(2**32, size=2)) for s in range(5) for e in range(5) for b in range(5)
    }
    assert len(draws) == 125


def test_the_papers_augmentation():
    assert default_augmentation("cifar10") == CropAndFlip(padding=4, flip=True)
    assert default_augmentation("cifar100:3.0.2") == CropAndFlip(padding=4, flip=True)
    for name in ("svhn_cropped", "mnist", "mnist10k", "fashion_mnist", "digits", "cifar10_1", "cifar10_corrupted"):
        assert default_augmentation(name) is None


@pytest.mark.parametrize("padding", [-1, 1.5, None])
def test_a_padding_that_is_none_is_refused(padding):
    with pytest.raises(ValueError, match="padding must be an integer of at least 0"):
        CropAndFlip(padding)


@pytest.mark.parametrize("augmentation", [CropAndFlip, RandomAffine])
def test_a_fill_mode_that_is_none_is_refused(augmentation):
    with pytest.raises(ValueError, match="fill_mode must be one of constant, reflect; got 'wrap'"):
        augmentation(fill_mode="wrap")


def test_an_image_is_not_reflected_twice():
    with pytest.raises(ValueError, match="padding is 4, more than images of 3 x 8 pixels have to reflect"):
        CropAndFlip(fill_mode="reflect")(images_of(2, 3, 8, 1), np.random.default_rng(0))


def test_one_image_alone_is_refused():
    with pytest.raises(ValueError, match=r"\[B, H, W, C\]; got \(8, 8, 3\)"):
        CropAndFlip()(images_of(8, 8, 3), np.random.default_rng(0))


def test_a_negative_epoch_is_refused():
    with pytest.raises(ValueError, match="negative"):
        batch_generator(0, -1, 0)


class Draws:
    """A generator of given numbers."""

    def __init__(self, draws):
        self.draws = np.asarray(draws)

    def uniform(self, low, high, size):
        assert (low, high) == (-1.0, 1.0)
        assert self.draws.shape == size
        return self.draws


@pytest.mark.parametrize(("fill_mode", "scipys"), [("constant", "grid-constant"), ("reflect", "reflect")])
@pytest.mark.parametrize("seed", range(5))
def test_affine_moves_images_as_scipy_does(seed, fill_mode, scipys):
    rng = np.random.default_rng(seed)
    images = rng.uniform(size=(4, 9, 12, 2)).astype("float32")
    draws = rng.uniform(-1.0, 1.0, size=(5, 4))
    augmented = RandomAffine(2.0, 40.0, 0.3, 0.4, fill_mode)(images, Draws(draws))
    center = np.array([4.0, 5.5])
    for image, result, (turn, shear, scale, right, down) in zip(images, augmented, draws.T, strict=True):
        c, s = (1 + 0.3 * scale) * np.array([np.cos(np.deg2rad(40 * turn)), np.sin(np.deg2rad(40 * turn))])
        # Rows first.
        matrix = np.array([[c, s], [0.4 * shear - s, c]])
        offset = center - matrix @ center + 2.0 * np.array([down, right])
        for channel in range(2):
            expected = scipy.ndimage.affine_transform(
                image[..., channel], matrix, offset, order=1, mode=scipys, cval=0.0
            )
            assert_allclose(result[..., channel], expected, atol=1e-4)


def test_affine_without_room_changes_nothing():
    images = images_of(3, 8, 8, 1)
    before = images.copy()
    assert_array_equal(RandomAffine(0.0, 0.0, 0.0, 0.0)(images, np.random.default_rng(0)), before)
    moved = RandomAffine()(images, np.random.default_rng(0))
    assert moved.dtype == np.uint8
    assert (moved != before).any()
    assert_array_equal(images, before)
    assert_array_equal(moved, RandomAffine()(images, np.random.default_rng(0)))


@pytest.mark.parametrize("name", ["shift", "rotation", "scale", "shear"])
def test_affine_bounds_must_not_be_negative(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 0"):
        RandomAffine(**{name: -0.1})


def test_affine_needs_a_batch_of_images():
    with pytest.raises(ValueError, match=r"\[B, H, W, C\]"):
        RandomAffine()(images_of(8, 8, 1), np.random.default_rng(0))
