"""Small data sets that TensorFlow Datasets prepares in a temporary folder."""

import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from numpy.testing import assert_array_equal

from clustr_keras.data import load

WORDS = tfds.features.ClassLabel(names=["disc", "square", "star"])
SMALL = tfds.features.Image(shape=(4, 5, 3))


def examples(count, shape=(4, 5, 3), seed=0, **others):
    """Images with labels 0, 1, 2, 0, ...; `others` are further features, as functions of the index."""
    rng = np.random.default_rng(seed)
    return [
        {
            "image": rng.integers(0, 256, shape).astype("uint8"),
            "label": index % 3,
            **{key: value(index) for key, value in others.items()},
        }
        for index in range(count)
    ]


def store(data_dir, name="shapes", features=None, version="1.0.0", **splits):
    """Prepares a data set of splits, given as lists of examples."""
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version=version,
        features=tfds.features.FeaturesDict(features or {"image": SMALL, "label": WORDS}),
        split_datasets={split: list(enumerate(items)) for split, items in splits.items()},
        data_dir=data_dir,
    )


def rows(images, labels):
    """Each example as one row of numbers, in an order of its own."""
    table = np.concatenate([np.reshape(images, (len(labels), -1)), np.reshape(labels, (-1, 1))], axis=1)
    return table[np.lexsort(table.T)]


def test_every_image_and_label_is_loaded_and_other_splits_are_left_out(tmp_path):
    parts = {"train": examples(300, seed=1), "test": examples(7, seed=2), "extra": examples(5, seed=3)}
    store(tmp_path, **parts)
    dataset = load("shapes", data_dir=tmp_path)
    for split in ("train", "test"):
        loaded, stored = getattr(dataset, split), parts[split]
        assert loaded.images.shape == (len(stored), 4, 5, 3)
        assert (loaded.images.dtype, loaded.labels.dtype) == (np.uint8, np.int64)
        assert_array_equal(
            rows(loaded.images, loaded.labels),
            rows([example["image"] for example in stored], [example["label"] for example in stored]),
        )
    assert dataset.name == "shapes"
    assert dataset.class_names == ("disc", "square", "star")


def test_the_order_is_the_same_every_time(tmp_path):
    store(tmp_path, train=examples(600), test=examples(3))
    first, second = (load("shapes", data_dir=str(tmp_path)).train for _ in range(2))
    assert_array_equal(first.images, second.images)
    assert_array_equal(first.labels, second.labels)


def test_classes_without_names_are_named_by_their_ids(tmp_path):
    store(
        tmp_path,
        features={"image": SMALL, "label": tfds.features.ClassLabel(num_classes=12)},
        train=examples(3),
        test=examples(3),
    )
    assert load("shapes", data_dir=tmp_path).class_names == tuple(map(str, range(12)))


def test_a_prepared_version_is_read_even_where_the_code_knows_another(tmp_path):
    assert str(tfds.builder("mnist", data_dir=tmp_path).version) != "1.2.3"
    gray = {"image": tfds.features.Image(shape=(28, 28, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
    parts = {"train": examples(4, (28, 28, 1)), "test": examples(2, (28, 28, 1))}
    store(tmp_path, "mnist", gray, version="1.2.3", **parts)
    assert load("mnist", data_dir=tmp_path).train.images.shape == (4, 28, 28, 1)
    assert load("mnist:1.*.*", data_dir=tmp_path).image_shape == (28, 28, 1)


def test_other_features_may_be_there(tmp_path):
    features = {"image": SMALL, "label": WORDS, "id": tfds.features.Text(), "box": tfds.features.BBoxFeature()}
    more = {"id": str, "box": lambda index: tfds.features.BBox(0.0, 0.0, 1.0, 1.0)}
    store(tmp_path, features=features, train=examples(3, **more), test=examples(3, **more))
    assert_array_equal(np.sort(load("shapes", data_dir=tmp_path).train.labels), [0, 1, 2])


def test_16_bit_images_become_floats(tmp_path):
    deep = [{"image": np.full((2, 2, 1), value, "uint16"), "label": 0} for value in (0, 13107, 65535)]
    features = {"image": tfds.features.Image(shape=(2, 2, 1), dtype=np.uint16), "label": WORDS}
    store(tmp_path, features=features, train=deep, test=deep)
    images = load("shapes", data_dir=tmp_path).train.images
    assert images.dtype == np.float32
    np.testing.assert_allclose(np.sort(images[:, 0, 0, 0]), [0.0, 0.2, 1.0], atol=1e-6)


@pytest.fixture
def ragged(tmp_path):
    sizes = [(4, 5), (8, 8), (3, 11)]
    items = [{"image": np.full((*size, 3), 40 * i, "uint8"), "label": i} for i, size in enumerate(sizes)]
    features = {"image": tfds.features.Image(), "label": WORDS}
    store(tmp_path, features=features, train=items, test=items)
    return tmp_path


def test_images_of_varying_size_are_refused_unless_a_size_is_given(ragged):
    with pytest.raises(ValueError, match=r"vary in size, shape \(None, None, 3\)\. Pass image_size="):
        load("shapes", data_dir=ragged)
    train = load("shapes", data_dir=ragged, image_size=(6, 7)).train
    assert train.images.shape == (3, 6, 7, 3)
    assert train.images.dtype == np.uint8
    for image, label in zip(train.images, train.labels, strict=True):
        assert (image == 40 * label).all()


def test_a_size_resizes_images_of_one_size_too(tmp_path):
    store(tmp_path, train=examples(3), test=examples(3))
    assert load("shapes", data_dir=tmp_path, image_size=[8, 9]).test.images.shape == (3, 8, 9, 3)
    assert_array_equal(
        load("shapes", data_dir=tmp_path, image_size=(4, 5)).test.images, load("shapes", data_dir=tmp_path).test.images
    )


def test_a_varying_number_of_channels_is_refused(tmp_path):
    features = {"image": tfds.features.Image(shape=(4, 5, None)), "label": WORDS}
    store(tmp_path, features=features, train=examples(3), test=examples(3))
    with pytest.raises(ValueError, match=r"vary in their number of channels, shape \(4, 5, None\)"):
        load("shapes", data_dir=tmp_path, image_size=(4, 5))


@pytest.mark.parametrize(("splits", "found"), [(("train",), "train"), (("test", "unlabelled"), "test, unlabelled")])
def test_a_missing_split_is_an_error_that_names_those_there_are(tmp_path, splits, found):
    store(tmp_path, **{split: examples(2) for split in splits})
    with pytest.raises(ValueError, match=f"must have the splits train and test; it has {found}"):
        load("shapes", data_dir=tmp_path)


def test_detection_data_is_refused_with_the_features_it_has(tmp_path):
    features = {"image": SMALL, "objects": tfds.features.Sequence({"label": WORDS, "is_crowd": np.bool_})}
    items = [{"image": np.zeros((4, 5, 3), "uint8"), "objects": [{"label": 1, "is_crowd": False}]}]
    store(tmp_path, features=features, train=items, test=items)
    with pytest.raises(ValueError, match=r"it has .*objects: Sequence.*Only sets for image class"):
        load("shapes", data_dir=tmp_path)


def test_text_is_refused_with_the_features_it_has(tmp_path):
    items = [{"text": "a star", "label": 2}]
    store(tmp_path, features={"text": tfds.features.Text(), "label": WORDS}, train=items, test=items)
    with pytest.raises(ValueError, match=r"must have an Image and a ClassLabel .*it has .*text: Text"):
        load("shapes", data_dir=tmp_path)


def test_one_hot_labels_are_refused_with_the_way_out(tmp_path):
    items = [{"image": np.zeros((4, 5, 3), "uint8"), "label": np.eye(3, dtype="float32")[1]}]
    features = {"image": SMALL, "label": tfds.features.Tensor(shape=(3,), dtype=np.float32)}
    store(tmp_path, features=features, train=items, test=items)
    with pytest.raises(ValueError, match=r"label: Tensor\(shape=\(3,\).*If label is one-hot, store its argmax"):
        load("shapes", data_dir=tmp_path)


def test_unlabelled_examples_are_refused(tmp_path):
    store(tmp_path, train=examples(3), test=[{**examples(1)[0], "label": -1}])
    with pytest.raises(ValueError, match=r"test labels must lie in 0\.\.2 .* got -1"):
        load("shapes", data_dir=tmp_path)


class TwoLabels(tfds.core.GeneratorBasedBuilder):
    """Made by code that TFDS knows, with a coarse and a fine label like CIFAR-100; counts how often it is made."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = pathlib.Path(__file__)
    made = 0

    def _info(self):
        features = {"image": SMALL, "coarse_label": tfds.features.ClassLabel(num_classes=2), "label": WORDS}
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager):
        type(self).made += 1
        return {"train": self._generate_examples(), "test": self._generate_examples()}

    def _generate_examples(self):
        yield from enumerate(examples(3, coarse_label=lambda index: 1))


class TwoLabelsUnsaid(TwoLabels):
    """Does not say which of its labels is meant."""

    def _info(self):
        return self.dataset_info_from_configs(features=super()._info().features)


class Unreachable(TwoLabels):
    """Cannot be downloaded."""

    def _split_generators(self, dl_manager):
        raise ConnectionError("no route to example.org")


def test_what_is_not_prepared_is_prepared_once(tmp_path):
    TwoLabels.made = 0
    first = load("two_labels", data_dir=tmp_path)
    assert_array_equal(np.sort(first.train.labels), [0, 1, 2])
    assert first.class_names == ("disc", "square", "star")
    assert_array_equal(load("two_labels", data_dir=tmp_path).train.labels, first.train.labels)
    assert TwoLabels.made == 1


def test_two_labels_without_supervised_keys_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"coarse_label: ClassLabel.*label: ClassLabel.*Set supervised_keys"):
        load("two_labels_unsaid", data_dir=tmp_path)


def test_what_can_neither_be_read_nor_downloaded_is_one_error_with_the_way_out(tmp_path):
    store(tmp_path, train=examples(1), test=examples(1))
    with pytest.raises(FileNotFoundError) as caught:
        load("unreachable", data_dir=tmp_path)
    message = str(caught.value)
    assert f"unreachable does not lie prepared in {tmp_path}, which holds shapes" in message
    assert "ConnectionError: no route to example.org" in message
    assert "Pass the data_dir that holds it, or load it on a machine with a network" in message


@pytest.mark.parametrize("folder", ["", "missing"])
def test_a_name_that_nobody_knows_is_an_error_that_says_what_there_is(tmp_path, folder):
    store(tmp_path, train=examples(1), test=examples(1))
    with pytest.raises(FileNotFoundError, match=r"no data set 'squares': .* holds (shapes|no data set), .*Correct the"):
        load("squares", data_dir=tmp_path / folder)


@pytest.mark.parametrize("damage", ["cut short", "gone"])
def test_broken_files_are_named(tmp_path, damage):
    store(tmp_path, train=examples(3), test=examples(3))
    (records,) = tmp_path.glob("shapes/1.0.0/shapes-test*")
    if damage == "gone":
        records.unlink()
    else:
        records.write_bytes(records.read_bytes()[:-20])
    with pytest.raises(
        ValueError, match=r"the files of shapes in .*shapes/1\.0\.0 cannot be read: .*Delete the folder"
    ):
        load("shapes", data_dir=tmp_path)


def test_reading_says_nothing(tmp_path, capfd, caplog):
    store(tmp_path, train=examples(300), test=examples(3))
    capfd.readouterr()
    caplog.clear()
    load("shapes", data_dir=tmp_path)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
