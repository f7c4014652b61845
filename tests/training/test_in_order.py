import contextlib
import gc

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from clustr_keras.training.kmeans_refresh import KMeansRefresh
from clustr_keras.training.magnet_batches import MagnetBatches

STEPS = 7


class Recorder:
    """An augmentation that changes nothing and keeps what it sees."""

    def __init__(self):
        self.images = []

    def __call__(self, images, rng):
        self.images.append(images)
        return images


@pytest.fixture
def recorded(colors):
    """Makes batches, and the list of all images that they give from then on."""

    def make(**arguments):
        recorder = Recorder()
        settings = {"clusters_per_batch": 4, "examples_per_cluster": 5, "steps_per_epoch": STEPS, **arguments}
        batches = MagnetBatches(*colors, num_classes=3, augmentation=recorder, **settings)
        return batches, recorder.images

    return make


@pytest.fixture
def model_of(stand_in):
    """Makes a model; eager unless told otherwise, since a few small steps take less time than their compilation."""

    def make(run_eagerly=True, **kwargs):
        return stand_in((4, 4, 1), 3, 2, rows=20, run_eagerly=run_eagerly, **kwargs)

    return make


def fit(model, batches, *callbacks, **kwargs):
    return model.fit(batches, verbose=0, callbacks=[KMeansRefresh(batches), *callbacks], **kwargs)


def train_by_hand(model, batches, epochs):
    """What `fit` does, one thing after the other in one thread."""
    refresh = KMeansRefresh(batches)
    refresh.set_model(model)
    refresh.set_params({"steps": STEPS})
    refresh.on_train_begin()
    losses = []
    for epoch in range(epochs):
        refresh.on_epoch_begin(epoch)
        for step in range(STEPS):
            images, y_true, weights = batches[step]
            losses.append(float(model.train_on_batch(images, y_true, weights)))
            refresh.on_train_batch_end(step)
        refresh.on_epoch_end(epoch)
    refresh.on_train_end()
    return losses


class StepLosses(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.means = []

    def on_train_batch_end(self, batch, logs=None):
        self.means.append(logs["loss"])


@pytest.mark.parametrize("lag", [0, 2])
def test_fit_sees_the_batches_and_makes_the_steps_of_a_loop_by_hand(model_of, recorded, lag):
    batches, seen = recorded(lag=lag)
    model, step_losses = model_of(run_eagerly=False), StepLosses()
    fit(model, batches, step_losses, epochs=2)
    by_hand, expected = recorded(lag=lag)
    model_by_hand = model_of(run_eagerly=False)
    losses = train_by_hand(model_by_hand, by_hand, epochs=2)

    assert_array_equal(seen, expected)
    assert len(seen) == 2 * STEPS
    # fit logs the mean of the epoch so far
    means = np.reshape(losses, (2, STEPS)).cumsum(axis=1) / np.arange(1, STEPS + 1)
    assert_allclose(step_losses.means, means.ravel(), rtol=1e-5)
    for ours, theirs in zip(model.get_weights(), model_by_hand.get_weights(), strict=True):
        assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    for ours, theirs in zip(batches.get_state().values(), by_hand.get_state().values(), strict=True):
        assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_losses_that_arrive_decide_the_batches(model_of, recorded):
    class Forget(keras.callbacks.Callback):
        """Runs ahead of the refresh, and has it read zeros."""

        def on_train_batch_end(self, batch, logs=None):
            self.model.example_losses.assign(np.zeros(20))

    batches, seen = recorded()
    fit(model_of(), batches, epochs=1)
    deaf, unguided = recorded()
    model_of().fit(deaf, verbose=0, callbacks=[Forget(), KMeansRefresh(deaf)])
    assert_array_equal(seen[:3], unguided[:3])
    assert not np.array_equal(seen, unguided)
    assert deaf.get_state()["example_losses"].max() == 0


def test_a_resumed_run_sees_the_batches_of_one_that_was_not_interrupted(model_of, recorded):
    class Checkpoint(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                self.weights = self.model.get_weights()
                self.optimizer = [variable.numpy() for variable in self.model.optimizer.variables]
                self.state = batches.get_state()

    batches, seen = recorded()
    model, checkpoint = model_of(), Checkpoint()
    fit(model, batches, checkpoint, epochs=4)

    resumed, seen_again = recorded()
    again = model_of()
    again.optimizer.build(again.trainable_variables)
    again.set_weights(checkpoint.weights)
    for variable, value in zip(again.optimizer.variables, checkpoint.optimizer, strict=True):
        variable.assign(value)
    resumed.set_state(checkpoint.state)
    fit(again, resumed, initial_epoch=2, epochs=4)

    assert_array_equal(seen_again, seen[2 * STEPS :])
    for ours, theirs in zip(model.get_weights(), again.get_weights(), strict=True):
        assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_a_distribution_strategy_that_prefetches_more_changes_nothing(stand_in, recorded):
    import tensorflow as tf

    batches, seen = recorded(lag=0)
    fit(stand_in((4, 4, 1), 3, 2, rows=20), batches, epochs=2)
    distributed, seen_there = recorded(lag=0)
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        model = stand_in((4, 4, 1), 3, 2, rows=20)
    fit(model, distributed, epochs=2)
    assert_array_equal(seen, seen_there)


@pytest.mark.parametrize("is_distributed", [False, True])
def test_an_interrupted_fit_leaves_nobody_waiting_and_can_be_repeated(stand_in, recorded, is_distributed):
    """Under a strategy a thread of TensorFlow waits for losses at that moment, and deleting the data waits for it."""
    import tensorflow as tf

    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 3:
                raise KeyboardInterrupt

    batches, seen = recorded(lag=0)
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0") if is_distributed else None
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = stand_in((4, 4, 1), 3, 2, rows=20)
    with pytest.raises(KeyboardInterrupt):
        fit(model, batches, Interrupt(), epochs=2)
    gc.collect()
    seen.clear()
    history = fit(model, batches, epochs=1)
    assert len(seen) == STEPS
    assert np.isfinite(history.history["loss"]).all()


def test_without_the_callback_fit_says_so_at_once(model_of, recorded):
    batches, seen = recorded()
    model = model_of()
    before = model.get_weights()
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"without the callback .* Pass callbacks=\[KMeansRefresh\(batches\)\]"):
            model.fit(batches, verbose=0)
    assert not seen
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        assert_array_equal(ours, theirs)
    fit(model, batches)
    with pytest.raises(RuntimeError, match="without the callback"):
        model.fit(batches, verbose=0)


def test_the_callback_of_other_batches_is_not_enough(model_of, recorded):
    batches, other = recorded()[0], recorded()[0]
    with pytest.raises(RuntimeError, match="without the callback"):
        model_of().fit(batches, verbose=0, callbacks=[KMeansRefresh(other)])


def test_several_steps_per_execution_are_refused(model_of, recorded):
    with pytest.raises(ValueError, match=r"got steps_per_execution=4\. Compile with steps_per_execution=1"):
        fit(model_of(run_eagerly=False, steps_per_execution=4), recorded()[0])


@pytest.mark.parametrize("steps", [3, 9])
def test_the_steps_of_an_epoch_are_given_to_the_batches(model_of, recorded, steps):
    with pytest.raises(ValueError, match=f"has 7 steps; fit was going to make {steps}. Give steps_per_epoch to Magnet"):
        fit(model_of(), recorded()[0], steps_per_epoch=steps)


def test_the_same_number_of_steps_may_be_given_to_fit(model_of, recorded):
    batches, seen = recorded()
    fit(model_of(), batches, epochs=2)
    counted, seen_there = recorded()
    fit(model_of(), counted, epochs=2, steps_per_epoch=STEPS)
    assert_array_equal(seen, seen_there)


def test_a_head_of_other_clusters_is_refused(stand_in, recorded):
    with pytest.raises(ValueError, match="3 classes of 2 clusters, the model's head has 3 of 1"):
        fit(stand_in((4, 4, 1), 3, 1, rows=20), recorded()[0])


def test_a_model_without_example_losses_is_refused(stand_in, recorded):
    with pytest.raises(ValueError, match="the model has no example_losses"):
        fit(stand_in((4, 4, 1), 3, 2), recorded()[0])


def test_the_data_set_has_static_shapes_so_that_nothing_recompiles(recorded):
    shapes = [spec.shape.as_list() for spec in recorded()[0].get_tf_dataset().element_spec]
    assert shapes == [[20, 4, 4, 1], [20, 2], [20]]


def test_before_training_keras_sees_one_batch_of_padding(recorded):
    batches, _ = recorded()
    ((images, y_true, weights),) = batches.get_jax_iterator()
    assert images.shape == (20, 4, 4, 1)
    assert_array_equal(y_true, np.tile([0, -1], (20, 1)))
    assert weights.sum() == 0


def test_other_backends_take_the_same_batches_in_the_thread_of_fit(model_of, recorded):
    """Drives the batches in the order of calls of Keras' own epoch iterator, as the JAX trainer does."""
    from keras.src.trainers.epoch_iterator import EpochIterator

    by_hand, expected = recorded()
    train_by_hand(model_of(), by_hand, epochs=2)

    batches, seen = recorded()
    model, refresh = model_of(), KMeansRefresh(batches)
    iterator = EpochIterator(batches, shuffle=True)
    for _ in iterator:
        break  # one batch, to build the model
    iterator.reset()
    refresh.set_model(model)
    refresh.set_params({"steps": iterator.num_batches})
    refresh.on_train_begin()
    for epoch in range(2):
        refresh.on_epoch_begin(epoch)
        for _, step, ((images, y_true, weights),) in iterator:
            model.train_on_batch(images, y_true, weights)
            refresh.on_train_batch_end(step)
        refresh.on_epoch_end(epoch)
    refresh.on_train_end()
    assert_array_equal(seen, expected)


def test_the_wait_of_each_step_is_noted(model_of, recorded):
    batches, _ = recorded()
    assert batches.seconds_waited.size == 0
    fit(model_of(run_eagerly=False), batches, epochs=2)
    waited = batches.seconds_waited
    assert waited.shape == (STEPS,)
    assert waited[0] > 0  # the first batch of an epoch cannot be made before its clusters are there
    assert np.all(waited >= 0)
