import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn import datasets

from clustr_keras.data import load_digits


def rows(images, labels):
    """Each example as one row of integers, in an order of its own."""
    pixels = np.asarray(images).reshape(len(images), -1) * 16
    table = np.concatenate([pixels, np.asarray(labels)[:, None]], axis=1)
    return table[np.lexsort(table.T)]


def test_both_parts_together_are_scikit_learns_digits(digits):
    (x_train, y_train), (x_test, y_test) = digits
    source = datasets.load_digits()
    assert_array_equal(
        rows(np.concatenate([x_train, x_test]), np.concatenate([y_train, y_test])),
        rows(source.images / 16, source.target),
    )


def test_shapes_types_and_range(digits):
    (x_train, y_train), (x_test, y_test) = digits
    assert x_train.shape == (1437, 8, 8, 1)
    assert x_test.shape == (360, 8, 8, 1)
    assert x_train.dtype == x_test.dtype == np.float32
    assert y_train.dtype == y_test.dtype == np.int64
    assert y_train.shape == (1437,)
    assert y_test.shape == (360,)
    assert (x_train.min(), x_train.max()) == (0.0, 1.0)


def test_the_split_is_a_shuffled_one(digits):
    _, (_, y_test) = digits
    source = datasets.load_digits()
    assert not np.array_equal(y_test, source.target[-len(y_test) :])
    assert set(y_test) == set(range(10))


def test_the_same_seed_splits_alike_and_another_one_does_not(digits):
    (x_train, y_train), (x_test, _) = digits
    (x_train_2, y_train_2), (x_test_2, _) = load_digits()
    assert_array_equal(x_train, x_train_2)
    assert_array_equal(y_train, y_train_2)
    assert_array_equal(x_test, x_test_2)
    assert not np.array_equal(x_test, load_digits(seed=1)[1][0])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_the_share_is_that_of_the_test_images(share):
    (x_train, _), (x_test, _) = load_digits(test_share=share)
    assert len(x_train) + len(x_test) == 1797
    assert abs(len(x_test) - share * 1797) < 1


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5])
def test_a_share_that_leaves_one_side_empty_is_refused(share):
    with pytest.raises(ValueError, match="images on both sides"):
        load_digits(test_share=share)
