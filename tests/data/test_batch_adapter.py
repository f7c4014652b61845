"""BatchAdapter gives the batches of a PyDataset, in their order, to fit."""

import keras
import numpy as np
import pytest

from clustr_keras.data import ImageBatches, Split
from clustr_keras.data.batch_adapter import BatchAdapter


@pytest.fixture
def batches():
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(10, 2, 2, 1), dtype=np.uint8)
    return ImageBatches(Split(images, np.arange(10) % 3), batch_size=4)


def test_the_dataset_has_the_batches_of_each_epoch(batches):
    pytest.importorskip("tensorflow")
    dataset = BatchAdapter(batches).get_tf_dataset()
    for epoch in range(2):
        batches.epoch = epoch
        given = list(dataset.as_numpy_iterator())
        assert [len(images) for images, _ in given] == [4, 4, 2]
        for index, (images, labels) in enumerate(given):
            np.testing.assert_array_equal(images, batches[index][0])
            np.testing.assert_array_equal(labels, batches[index][1])


def test_class_weights_are_weights_of_the_examples(batches):
    pytest.importorskip("tensorflow")
    weights = {0: 1.0, 1: 2.0, 2: 5.0}
    for _, labels, sample_weight in BatchAdapter(batches, weights).get_tf_dataset().as_numpy_iterator():
        np.testing.assert_array_equal(sample_weight, [weights[label] for label in labels])


@pytest.mark.parametrize("class_weight", [None, {0: 1.0, 1: 2.0, 2: 5.0}])
def test_fit_trains_as_with_the_adapter_of_keras(batches, class_weight):
    def trained(adapted):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        batches.epoch = 0
        if adapted:
            model.fit(BatchAdapter(batches, class_weight), epochs=3, verbose=0)
        else:
            model.fit(batches, epochs=3, verbose=0, shuffle=False, class_weight=class_weight)
        assert batches.epoch == 3
        return model.get_weights()

    for ours, theirs in zip(trained(True), trained(False), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_an_error_of_a_batch_ends_fit(batches):
    def fails(images, rng):
        raise ArithmeticError("the augmentation failed")

    model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    batches.augmentation = fails
    with pytest.raises(Exception, match="the augmentation failed"):
        model.fit(BatchAdapter(batches), verbose=0)
