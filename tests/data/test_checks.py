import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clustr_keras.data.checks import check_image_shape, check_images, check_labels


def gray(*shape):
    return np.full(shape, 0.5, "float32")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_ends_of_the_range_are_images(dtype):
    images = np.zeros((2, 3, 3, 1), dtype)
    images[1] = 1
    check_images(images, (3, 3, 1))


def test_images_may_come_as_a_list():
    check_images([[[[0.0], [1.0]]]], (1, 2, 1))


def test_an_axis_of_any_size_fits_every_size():
    check_images(gray(2, 5, 7, 3), (None, None, 3))
    with pytest.raises(ValueError, match=r"must have shape \[B, None, None, 3\]; got \(2, 5, 7, 1\)"):
        check_images(gray(2, 5, 7, 1), (None, None, 3))


@pytest.mark.parametrize(
    "shape", [(8, 8, 1), (2, 8, 8), (2, 8, 8, 3), (2, 1, 8, 8), (2, 4, 16, 1), (2, 64), (1, 2, 8, 8, 1)]
)
def test_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"must have shape \[B, 8, 8, 1\]; got \(" + ", ".join(map(str, shape))):
        check_images(gray(*shape), (8, 8, 1))


@pytest.mark.parametrize("images", [[], np.zeros((0, 8, 8, 1), "float32"), 0.5, None])
def test_no_images_are_refused(images):
    with pytest.raises(ValueError, match="at least one example"):
        check_images(images, (8, 8, 1))


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool", "complex64", "object"])
def test_images_that_are_not_floats_are_refused(dtype):
    with pytest.raises(ValueError, match=f"got dtype {dtype}"):
        check_images(np.zeros((1, 2, 2, 1), dtype))


just_outside = [np.nextafter(0.0, -1.0), np.nextafter(1.0, 2.0)]


@given(
    position=st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 2), st.integers(0, 1)),
    value=st.sampled_from([float("nan"), float("inf"), -float("inf"), -1.0, 255.0, *just_outside]),
)
def test_one_pixel_outside_is_found_and_named(position, value):
    images = np.full((4, 2, 3, 2), 0.5)
    images[position] = value
    with pytest.raises(ValueError, match="must be finite and lie in") as caught:
        check_images(images)
    assert f"got {value} at index {position}." in str(caught.value)


def test_the_error_uses_the_name_of_the_argument():
    with pytest.raises(ValueError, match=r"^validation images must"):
        check_images(gray(1, 2, 2, 1) + 1, name="validation images")


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
def test_every_class_id_is_a_label(dtype):
    check_labels(np.arange(10, dtype=dtype), 10, 10)
    check_labels(np.arange(10, dtype=dtype)[:, None], 10, 10)


def test_labels_of_two_classes_may_be_a_column_of_any_length():
    check_labels([[0], [1]], 2, 2)


def test_the_first_label_outside_is_named_with_the_number_of_classes_it_would_take():
    labels = np.zeros(500, int)
    labels[431], labels[470] = 12, 17
    with pytest.raises(
        ValueError, match=r"labels must lie in 0\.\.9 for num_classes=10; got 12 at index 431\."
    ) as caught:
        check_labels(labels, 10)
    assert "num_classes=18" in str(caught.value)


@pytest.mark.parametrize("bad", [-1, -0.5, 2.5, float("nan"), -float("inf")])
def test_a_label_that_no_number_of_classes_would_make_good_is_named(bad):
    with pytest.raises(ValueError, match=r"got \S+ at index 1\. Map the labels to 0, 1, 2") as caught:
        check_labels(np.array([0, bad, 1]), 10)
    assert f"got {bad} at" in str(caught.value)


@pytest.mark.parametrize("labels", [[0, float("inf")], [12.0, float("nan")]])
def test_infinite_labels_get_an_error_about_labels_too(labels):
    with pytest.raises(ValueError, match="labels must"):
        check_labels(labels, 10)


def test_labels_that_are_names_get_an_error_about_labels():
    with pytest.raises(ValueError, match="labels must"):
        check_labels(np.array(["cat", "dog"]), 2)


def test_one_hot_labels_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"one-hot.*argmax"):
        check_labels(np.eye(10), 10)


@pytest.mark.parametrize("shape", [(), (4, 3), (4, 1, 1), (1, 4)])
def test_labels_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"shape \[B\] or \[B, 1\]; got \("):
        check_labels(np.zeros(shape, int), 10)


@pytest.mark.parametrize("count", [0, 2, 4])
def test_there_must_be_one_label_for_each_image(count):
    with pytest.raises(ValueError, match=f"got {count} labels, 3 images"):
        check_labels(np.zeros(count, int), 10, 3)


@pytest.mark.parametrize(
    ("given_shape", "expected", "advice"),
    [
        ((2, 28, 28, 1), (28, 28, 3), r"Repeat the gray channel .*axis=-1\), or build the model for \(28, 28, 1\)"),
        ((2, 28, 28, 3), (28, 28, 1), r"Average the colors .*, or build the model for \(28, 28, 3\)"),
        ((2, 28, 28, 4), (28, 28, 3), "Convert the images to 3 channels, or"),
        ((2, 28, 28, 1), (32, 32, 1), r"Resize the images to 32 x 32, or build the model for \(28, 28, 1\)"),
        ((2, 28, 28, 1), (None, 32, 1), "Resize the images to any x 32, or"),
        ((2, 28, 28, 1), (32, 32, 3), "Resize the images to 32 x 32 and repeat the gray channel"),
        ((2, 28, 28), (28, 28, 1), r"images\[\.\.\., None\]"),
        ((2, 3, 32, 32), (32, 32, 3), r"numpy\.moveaxis"),
        ((2, 784), (28, 28, 1), r"got \(2, 784\)\.$"),
    ],
)
def test_images_of_another_shape_come_with_the_way_to_fit(given_shape, expected, advice):
    with pytest.raises(ValueError, match=advice):
        check_images(gray(*given_shape), expected)
    with pytest.raises(ValueError, match=advice):
        check_image_shape(given_shape, expected)


def test_the_ways_to_fit_do_fit():
    check_image_shape(np.repeat(gray(2, 5, 5, 1), 3, axis=-1).shape, (5, 5, 3))
    check_image_shape(gray(2, 5, 5, 3).mean(axis=-1, keepdims=True).shape, (5, 5, 1))
    check_image_shape(gray(2, 5, 5)[..., None].shape, (5, 5, 1))
    check_image_shape(np.moveaxis(gray(2, 3, 5, 4), 1, -1).shape, (5, 4, 3))


def test_the_error_uses_the_name_of_the_labels():
    with pytest.raises(ValueError, match=r"^test labels must lie in 0\.\.1"):
        check_labels([0, 2], 2, name="test labels")
