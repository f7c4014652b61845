import numpy as np
import pytest

from clustr_keras.data import random_rows


def test_a_sample_has_no_image_twice_and_every_image_its_chance():
    samples = [random_rows(10, 3, seed) for seed in range(400)]
    assert all(len(set(rows)) == 3 and list(rows) == sorted(rows) for rows in samples)
    shares = np.bincount(np.concatenate(samples), minlength=10) / 400
    # Four standard deviations around 3 / 10.
    np.testing.assert_allclose(shares, 0.3, atol=4 * np.sqrt(0.3 * 0.7 / 400))
    np.testing.assert_array_equal(random_rows(10, 3, 5), samples[5])


@pytest.mark.parametrize("count", [None, 10, 11])
def test_no_fewer_than_there_are_is_all(count):
    np.testing.assert_array_equal(random_rows(10, count, seed=1), np.arange(10))


def test_a_sample_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1; got 0"):
        random_rows(10, 0)
