import numpy as np
import pytest

from clustr_keras.data import ImageDataset, Split


def split(n=4, shape=(3, 3, 1), labels=None):
    return Split(np.zeros((n, *shape), "uint8"), np.arange(n) % 3 if labels is None else np.asarray(labels))


def test_what_a_data_set_says_about_itself():
    dataset = ImageDataset("shapes", split(5), split(2), ("disc", "square", "star"))
    assert (len(dataset.train), len(dataset.test)) == (5, 2)
    assert dataset.image_shape == (3, 3, 1)
    assert dataset.num_classes == 3


def test_it_is_frozen():
    dataset = ImageDataset("shapes", split(), split(), ("disc", "square", "star"))
    with pytest.raises(AttributeError):
        dataset.train = split()
    with pytest.raises(AttributeError):
        dataset.train.labels = None


@pytest.mark.parametrize("shape", [(0, 3, 3, 1), (4, 3, 3), (4,)])
def test_what_is_no_batch_of_images_is_refused(shape):
    with pytest.raises(ValueError, match=r"images must have shape \[N, H, W, C\]"):
        Split(np.zeros(shape), np.zeros(shape[0], int))


def test_one_hot_labels_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"shape \(4, 3\).*argmax"):
        split(labels=np.eye(3)[[0, 1, 2, 0]])


@pytest.mark.parametrize("labels", [[0, 1, 2], [[0], [1], [2], [0]]])
def test_there_must_be_one_label_for_each_image(labels):
    with pytest.raises(ValueError, match=r"shape \[4\], one for each image"):
        split(labels=labels)


@pytest.mark.parametrize("bad", [-1, 3])
@pytest.mark.parametrize("name", ["training", "test"])
def test_a_label_without_a_class_name_is_refused(bad, name):
    good, wrong = split(), split(labels=[0, 1, bad, 0])
    parts = (wrong, good) if name == "training" else (good, wrong)
    with pytest.raises(ValueError, match=rf"{name} labels must lie in 0\.\.2 .*got {bad} at index 2"):
        ImageDataset("shapes", *parts, ("disc", "square", "star"))


def test_splits_of_different_images_are_refused():
    with pytest.raises(ValueError, match=r"test images must have shape \[B, 3, 3, 1\]; got \(4, 3, 3, 3\)"):
        ImageDataset("shapes", split(), split(shape=(3, 3, 3)), ("disc", "square", "star"))
