import io
import pathlib

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from numpy.testing import assert_array_equal

from clustr_keras.data import load

DATA = pathlib.Path(__file__).parents[3] / "shared" / "data" / "tfds"


def records(name, split):
    """The features of each example, past all of TensorFlow Datasets."""
    (file,) = DATA.glob(f"{name}/*/{name}-{split}.tfrecord*")
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        yield tf.train.Example.FromString(record).features.feature


def test_the_bundled_digits(digits):
    (x_train, y_train), (x_test, y_test) = digits
    dataset = load("digits")
    assert_array_equal(dataset.train.images, x_train)
    assert_array_equal(dataset.train.labels, y_train)
    assert_array_equal(dataset.test.images, x_test)
    assert_array_equal(dataset.test.labels, y_test)
    assert dataset.class_names == tuple("0123456789")
    assert dataset.image_shape == (8, 8, 1)


def test_the_digits_may_be_resized():
    train = load("digits", image_size=(16, 12)).train
    assert train.images.shape == (1437, 16, 12, 1)
    assert train.images.dtype == np.float32
    assert 0 <= train.images.min() < train.images.max() <= 1


def test_a_size_that_is_none_is_refused():
    with pytest.raises(ValueError, match="image_size must be"):
        load("digits", image_size=16)


@pytest.mark.skipif(not (DATA / "mnist10k").exists(), reason="mnist10k does not lie prepared beside the repository")
def test_the_mnist_test_images():
    dataset = load("mnist10k", data_dir=DATA)
    assert dataset.train.images.shape == (8000, 28, 28, 1)
    assert dataset.test.images.shape == (2000, 28, 28, 1)
    assert dataset.train.images.dtype == np.uint8
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    # As published for the MNIST test set.
    assert_array_equal(np.bincount(labels), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009])
    for record, image, label in zip(records("mnist10k", "test"), dataset.test.images, dataset.test.labels, strict=True):
        assert_array_equal(PIL.Image.open(io.BytesIO(record["image"].bytes_list.value[0])), image[..., 0])
        assert record["label"].int64_list.value == [label]
