import numpy as np
import pytest
from numpy.testing import assert_array_equal
from support.pgd_networks import Network, images_of

from clustr_keras.attacks import ProjectedGradientDescent


@pytest.mark.parametrize("column", [False, True])
def test_labels_may_be_a_row_or_a_column_of_any_integers(column):
    network, images = Network(16), images_of(6, 16)
    labels = network.classes(images)
    attack = ProjectedGradientDescent(network, steps=3, restarts=1, batch_size=6)
    expected = attack(images, labels, 0.1).adversarial
    again = attack(images, (labels[:, None] if column else labels).astype("uint8"), 0.1)
    assert_array_equal(again.adversarial, expected)


def test_the_name_says_what_was_run():
    assert ProjectedGradientDescent(None, "l_2", steps=40, restarts=3).name == "PGD l_2, 40 steps x 3 restarts"


@pytest.mark.parametrize("norm", ["l2", "l_1", 2, None])
def test_an_unknown_norm_is_refused(norm):
    with pytest.raises(ValueError, match="norm must be 'l_inf' or 'l_2'; got"):
        ProjectedGradientDescent(Network(), norm)


@pytest.mark.parametrize("argument", ["steps", "restarts", "batch_size"])
def test_counts_below_one_are_refused(argument):
    with pytest.raises(ValueError, match="must be at least 1"):
        ProjectedGradientDescent(Network(), **{argument: 0})


@pytest.mark.parametrize("eps", [-0.1, float("nan"), float("inf"), [0.1, -0.2]])
def test_an_eps_that_is_no_radius_is_refused(eps):
    with pytest.raises(ValueError, match="eps must be finite and at least 0; got"):
        ProjectedGradientDescent(Network(), batch_size=2)(images_of(2), np.zeros(2, int), eps)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_there_must_be_one_label_for_each_image(count):
    with pytest.raises(ValueError, match="label"):
        ProjectedGradientDescent(Network(), steps=1, batch_size=2)(images_of(2), np.zeros(count, int), 0.1)


@pytest.mark.parametrize("value", [1.5, -0.5, float("nan")])
def test_images_outside_the_pixel_range_are_refused(value):
    images = images_of(2)
    images[1, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        ProjectedGradientDescent(Network(), steps=1, batch_size=2)(images, np.zeros(2, int), 0.1)


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        ProjectedGradientDescent(Network(), steps=1, batch_size=2)(images_of(0), np.zeros(0, int), 0.1)
