from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_array_equal

from clustr_keras.data import CropAndFlip, ImageBatches, Split, as_floats


def numbered(count=23, dtype="uint8"):
    """A split whose every image tells its number, its label too."""
    numbers = np.arange(count)
    images = np.broadcast_to(numbers[:, None, None, None], (count, 4, 4, 1))
    images = images.astype("uint8") if dtype == "uint8" else (images / 255).astype(dtype)
    return Split(images, numbers)


def assert_same_batches(some, others):
    assert len(some) == len(others)
    for (images, labels), (other_images, other_labels) in zip(some, others, strict=True):
        assert_array_equal(images, other_images)
        assert_array_equal(labels, other_labels)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
@pytest.mark.parametrize(("drop_remainder", "sizes"), [(False, [5, 5, 5, 5, 3]), (True, [5, 5, 5, 5])])
def test_every_example_comes_once_with_its_label(dtype, drop_remainder, sizes):
    batches = ImageBatches(numbered(dtype=dtype), 5, drop_remainder=drop_remainder)
    given = list(batches)
    assert len(batches) == len(sizes)
    assert [len(labels) for _, labels in given] == sizes
    images, labels = (np.concatenate(part) for part in zip(*given, strict=True))
    assert images.dtype == np.float32
    assert len(np.unique(labels)) == sum(sizes)
    assert_array_equal(np.rint(images[:, 1, 2, 0] * 255), labels)


def test_without_shuffling_the_order_is_that_of_the_split():
    batches = ImageBatches(numbered(), 10, shuffle=False)
    for epoch in (0, 5):
        batches.epoch = epoch
        assert_array_equal(np.concatenate([labels for _, labels in batches]), np.arange(23))


def test_the_order_is_another_one_in_every_epoch_and_for_every_seed():
    orders = set()
    for seed in range(4):
        batches = ImageBatches(numbered(), 23, seed=seed)
        for epoch in range(4):
            batches.epoch = epoch
            orders.add(tuple(batches[0][1]))
    assert len(orders) == 16


def test_positions_are_drawn_evenly():
    batches = ImageBatches(numbered(5), 5)
    counts = np.zeros((5, 5), int)
    for epoch in range(2000):
        batches.epoch = epoch
        counts[np.arange(5), batches[0][1]] += 1
    # 400 each in the mean, with a standard deviation of 18.
    assert counts.min() > 310
    assert counts.max() < 490


def test_a_batch_does_not_depend_on_what_was_made_before_or_beside_it():
    split = Split(np.random.default_rng(0).integers(0, 256, (50, 6, 6, 3)).astype("uint8"), np.arange(50))

    def fresh(epoch):
        batches = ImageBatches(split, 8, CropAndFlip(2), seed=3)
        batches.epoch = epoch
        return batches

    expected = [fresh(2)[index] for index in range(7)]
    backwards = fresh(2)
    assert_same_batches([backwards[index] for index in reversed(range(7))][::-1], expected)
    wandering = fresh(0)
    list(wandering)
    wandering.epoch = 5
    list(wandering)
    wandering.epoch = 2
    assert_same_batches(list(wandering), expected)
    with ThreadPoolExecutor(4) as pool:
        shared = fresh(2)
        assert_same_batches(list(pool.map(shared.__getitem__, list(range(7)) * 5)), expected * 5)


def test_the_augmentation_gets_the_images_as_stored_and_a_stream_of_its_own_in_every_batch():
    seen = []

    def augmentation(images, rng):
        seen.append((images.dtype, rng.integers(2**40)))
        return images

    batches = ImageBatches(numbered(), 5, augmentation)
    for epoch in range(3):
        batches.epoch = epoch
        list(batches)
    assert {dtype for dtype, _ in seen} == {np.dtype("uint8")}
    assert len({draw for _, draw in seen}) == 15


def test_the_first_batch_is_augmented_independently_of_the_order():
    draws = []
    batches = ImageBatches(numbered(), 23, lambda images, rng: (draws.append(rng.permutation(23)), images)[1])
    order = batches[0][1]
    assert not np.array_equal(order, draws[0])


def test_augmented_images_are_crops_of_the_right_images():
    batches = ImageBatches(numbered(), 23, CropAndFlip(padding=1))
    images, labels = batches[0]
    assert_array_equal(np.rint(images.max(axis=(1, 2, 3)) * 255), labels)


class Recorder(keras.Model):
    """Remembers the batches that `fit` trains on, in lists of epochs."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def call(self, images):
        return images[:, 0, 0, :]

    def train_step(self, data):
        images, labels = data
        self.seen.append((images.numpy(), labels.numpy()))
        return {"loss": 0.0}

    def fit(self, *args, **kwargs):
        self.seen = []
        super().fit(*args, verbose=0, shuffle=False, **kwargs)
        return self.seen


def recorder(strategy="none"):
    if strategy == "none":
        model = Recorder()
        model.compile(run_eagerly=True)
        return model
    # Under a strategy Keras takes a batch to build the model before the first epoch.
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        model = Recorder()
        model.compile(loss="mse", metrics=["mae"], run_eagerly=True)
    return model


def make(batch_size=5, **kwargs):
    return ImageBatches(numbered(), batch_size, CropAndFlip(1), seed=7, **kwargs)


def batches_of_epochs(epochs, **kwargs):
    batches, given = make(**kwargs), []
    for epoch in epochs:
        batches.epoch = epoch
        given += list(batches)
    return given


strategies = pytest.mark.parametrize("strategy", ["none", "one device"])


@strategies
@pytest.mark.parametrize("batch_size", [5, 23])
def test_fit_sees_the_epochs_in_turn(strategy, batch_size):
    batches = make(batch_size)
    assert_same_batches(recorder(strategy).fit(batches, epochs=3), batches_of_epochs(range(3), batch_size=batch_size))
    assert batches.epoch == 3


@strategies
def test_a_resumed_fit_sees_what_an_uninterrupted_one_sees(strategy):
    whole = recorder(strategy).fit(make(), epochs=4)
    batches = make()
    batches.epoch = 2
    assert_same_batches(recorder(strategy).fit(batches, initial_epoch=2, epochs=4), whole[10:])


@strategies
def test_a_second_fit_goes_on_where_the_first_one_ended(strategy):
    model, batches = recorder(strategy), make()
    first = model.fit(batches, epochs=2)
    second = model.fit(batches, initial_epoch=2, epochs=3)
    assert_same_batches(first + second, batches_of_epochs(range(3)))
    batches.epoch = 1
    assert_same_batches(model.fit(batches, epochs=2), batches_of_epochs([1, 2]))


class StopInTheSecondEpoch(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.is_second = epoch == 1

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = self.is_second and batch == 2


@strategies
def test_an_epoch_that_was_cut_short_is_begun_anew(strategy):
    model, batches = recorder(strategy), make()
    model.fit(batches, epochs=4, callbacks=[StopInTheSecondEpoch()])
    assert batches.epoch == 1
    assert_same_batches(model.fit(batches, initial_epoch=1, epochs=3), batches_of_epochs([1, 2]))


@strategies
def test_a_model_compiled_anew_goes_on_where_the_first_one_ended(strategy):
    batches = make()
    first, second = (recorder(strategy).fit(batches, epochs=2) for _ in range(2))
    assert_same_batches(first + second, batches_of_epochs(range(4)))


@strategies
def test_a_callback_may_set_the_epoch(strategy):
    batches = make()
    follow = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: setattr(batches, "epoch", epoch))
    seen = recorder(strategy).fit(batches, initial_epoch=3, epochs=6, callbacks=[follow])
    assert_same_batches(seen, batches_of_epochs([3, 4, 5]))


def test_validation_on_other_batches_does_not_count():
    batches = make()
    inputs = keras.Input((4, 4, 1))
    model = keras.Model(inputs, keras.layers.Dense(23)(keras.layers.Flatten()(inputs)))
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    validation = ImageBatches(numbered(), 7, shuffle=False)
    model.fit(batches, epochs=2, shuffle=False, validation_data=validation, verbose=0)
    assert batches.epoch == 2


def test_training_on_batches_equals_training_on_their_arrays():
    """Compiled, and with several steps in one execution."""

    def model():
        keras.utils.set_random_seed(0)
        inputs = keras.Input((4, 4, 1))
        model = keras.Model(inputs, keras.layers.Dense(23)(keras.layers.Flatten()(inputs)))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"], steps_per_execution=2)
        return model

    fitted, stepped = model(), model()
    fitted.fit(make(drop_remainder=True), epochs=3, shuffle=False, verbose=0)
    for images, labels in batches_of_epochs(range(3), drop_remainder=True):
        stepped.train_on_batch(images, labels)
    for weight, other in zip(fitted.get_weights(), stepped.get_weights(), strict=True):
        np.testing.assert_allclose(weight, other, rtol=1e-5, atol=1e-7)


def test_a_fit_that_shuffles_the_batches_is_refused():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 1))
    model = keras.Model(inputs, keras.layers.Dense(23)(keras.layers.Flatten()(inputs)))
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    # TensorFlow wraps it.
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=r"fit must .* Pass shuffle=False to fit"):
        model.fit(make(), epochs=3, verbose=0)


def test_workers_of_keras_are_refused():
    with pytest.raises(TypeError, match="workers"):
        make(workers=2)
    with pytest.raises(AttributeError, match="workers"):
        make().workers = 2


@pytest.mark.parametrize("index", [-1, 5, 100])
def test_an_index_outside_is_refused(index):
    with pytest.raises(IndexError, match=rf"index must lie in 0\.\.4; got {index}"):
        make()[index]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be an integer of at least 1; got 0"),
        ({"batch_size": 2.5}, "batch_size must be an integer"),
        ({"seed": -1}, "seed must be an integer of at least 0; got -1"),
        ({"seed": None}, "seed must be an integer"),
        ({"batch_size": 24, "drop_remainder": True}, "23 examples make no batch of 24"),
        ({"split": np.zeros((3, 4, 4, 1))}, r"split must be a Split; got a ndarray\. Pass dataset\.train"),
        ({"split": Split(np.full((3, 4, 4, 1), 255.0), np.arange(3))}, "must be finite and lie in"),
        ({"split": Split(np.full((3, 4, 4, 1), 7), np.arange(3))}, "must be floats"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ImageBatches(**{"split": numbered(), "batch_size": 5, **arguments})


@pytest.mark.parametrize("epoch", [-1, 1.0, None])
def test_an_epoch_that_is_none_is_refused(epoch):
    with pytest.raises(ValueError, match="epoch must be an integer of at least 0"):
        make().epoch = epoch


def test_the_split_is_left_as_it_is():
    split = numbered(dtype="float32")
    before = split.images.copy()
    for images, _ in ImageBatches(split, 5, shuffle=False):
        images[:] = 0
    assert_array_equal(split.images, before)
    assert_array_equal(as_floats(split.images), before)
