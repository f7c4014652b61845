import numpy as np
import pytest
from numpy.testing import assert_array_equal

from clustr_keras.evaluation.flips import Flips
from clustr_keras.evaluation.threat_model import ThreatModel

IMAGES = np.zeros((3, 2, 2, 1), "float32")
LABELS = np.array([0, 1, 2])


def moved(value, pixels):
    image = np.zeros((2, 2, 1), "float32")
    image.reshape(-1)[:pixels] = value
    return image


@pytest.fixture
def flips():
    found = Flips(IMAGES, LABELS)
    found.add(np.array([0, 1]), np.stack([moved(0.5, 1), moved(0.2, 4)]), np.array([1, 1]))
    found.add(np.array([2, 0]), np.stack([moved(0.3, 1), moved(0.25, 4)]), np.array([0, 2]))
    return found


def test_the_smallest_flip_is_kept_in_each_norm(flips):
    # Example 0 has two flips: one pixel by 0.5, and all four by 0.25. The second is smaller in l_inf alone.
    flips.add(np.array([0]), moved(0.4, 2)[None], np.array([1]))
    np.testing.assert_allclose(flips.distance["l_2"], [0.5, np.inf, 0.3], rtol=1e-6)
    np.testing.assert_allclose(flips.distance["l_inf"], [0.25, np.inf, 0.3], rtol=1e-6)
    assert_array_equal(flips.class_ids["l_2"], [1, 1, 0])
    assert_array_equal(flips.class_ids["l_inf"], [2, 1, 0])
    assert_array_equal(flips.adversarial["l_inf"][0], moved(0.25, 4))


def test_a_flip_counts_wherever_it_fits(flips):
    assert_array_equal(flips.fits(ThreatModel("l_2", 0.4)), [False, False, True])
    assert_array_equal(flips.fits(ThreatModel("l_2", 0.5)), [True, False, True])
    assert_array_equal(flips.fits(ThreatModel("l_inf", 0.26)), [True, False, False])


def test_what_keeps_its_class_is_no_flip(flips):
    assert not np.isfinite(flips.distance["l_2"][1])
    assert_array_equal(flips.adversarial["l_2"][1], IMAGES[1])
