import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from clustr_keras import ClustrClassifier, MagnetLoss
from clustr_keras.consistency import FreeAdversarialTraining
from clustr_keras.data import ImageBatches, Split
from clustr_keras.training import EpochCheckpoint, KMeansRefresh, MagnetBatches

# Trains three epochs and writes the weights; killed in the second where asked to be. Once for each pair of arguments,
# each time in a process of its own: a fork from before TensorFlow starts, so that it is imported only once.
TRAINING = """
import os, signal, sys
import keras, numpy as np, tensorflow as tf
from clustr_keras import ClustrClassifier, MagnetLoss
from clustr_keras.consistency import QTRADES
from clustr_keras.data import CropAndFlip, load
from clustr_keras.training import EpochCheckpoint, KMeansRefresh, MagnetBatches

for folder, how in zip(sys.argv[1::2], sys.argv[2::2]):
    child = os.fork()
    if child == 0:
        is_killed = how == "killed"
        break
    print("exit status", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
tf.config.experimental.enable_op_determinism()
keras.utils.set_random_seed(0)
digits = load("digits").train
inputs = keras.Input((8, 8, 1))
x = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, strides=2)(inputs))
x = keras.layers.Dropout(0.1)(keras.layers.ReLU()(x))
backbone = keras.Model(inputs, keras.layers.Dense(6)(keras.layers.Flatten()(x)))
model = ClustrClassifier(backbone, 10, clusters_per_class=2)
model.compile(keras.optimizers.Adam(1e-2), MagnetLoss(), consistency=QTRADES(1.0, eps=0.1), metrics=[])
batches = MagnetBatches(
    digits.images, digits.labels, 10, 2, 6, 10, steps_per_epoch=8, augmentation=CropAndFlip(1), seed=3
)
plateau = keras.callbacks.ReduceLROnPlateau(monitor="loss", patience=0, min_delta=10.0)

class Kill(keras.callbacks.Callback):
    epoch = None
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
    def on_train_batch_end(self, batch, logs=None):
        if is_killed and self.epoch == 1 and batch == 4:
            os.kill(os.getpid(), signal.SIGKILL)

checkpoint = EpochCheckpoint(folder, batches, [plateau])
first = checkpoint.restore(model)
callbacks = [KMeansRefresh(batches), plateau, checkpoint, Kill()]
model.fit(batches, initial_epoch=first, epochs=3, verbose=0, callbacks=callbacks)
rate = float(model.optimizer.learning_rate)
np.savez(folder + "/weights.npz", *model.backbone.get_weights(), *model.head.get_weights(), rate)
print("trained from epoch", first)
"""


def test_a_killed_training_ends_with_the_weights_of_one_that_was_not(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    command = [sys.executable, "-c", TRAINING, whole, "alive", cut, "killed", cut, "alive"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.splitlines() == [
        "trained from epoch 0",
        "exit status 0",
        "exit status -9",
        "trained from epoch 1",
        "exit status 0",
    ], done.stderr
    with np.load(whole / "weights.npz") as expected, np.load(cut / "weights.npz") as resumed:
        assert len(expected.files) > 10
        for name in expected.files:
            assert_array_equal(resumed[name], expected[name])


def images(count=60, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(size=(count, 4, 4, 1)).astype("float32"), np.arange(count) % 3


def classifier(width=4, clusters=1, **arguments):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(inputs))
    model = ClustrClassifier(keras.Model(inputs, keras.layers.Dense(width)(x)), 3, clusters)
    model.compile(keras.optimizers.Adam(1e-2), metrics=[], run_eagerly=True, **arguments)
    return model


def test_without_a_checkpoint_training_begins_at_epoch_0(tmp_path):
    checkpoint = EpochCheckpoint(tmp_path / "none")
    assert checkpoint.restore(classifier()) == checkpoint.saved_epoch == 0


@pytest.mark.parametrize("arguments", [{}, {"free": True}])
def test_plain_batches_resume_with_seeds_optimizer_and_perturbation(tmp_path, arguments):
    def make():
        free = FreeAdversarialTraining(20, replays=2) if arguments else None
        return classifier(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), free=free)

    def fit(model, epochs, folder):
        batches = ImageBatches(Split(*images()), 20)
        checkpoint = EpochCheckpoint(folder, batches)
        first = checkpoint.restore(model)
        model.fit(batches, initial_epoch=first, epochs=epochs, verbose=0, callbacks=[checkpoint])
        return model.get_weights() + [np.asarray(v) for v in model.free_variables]

    whole = fit(make(), 3, tmp_path / "whole")
    fit(make(), 2, tmp_path / "cut")
    for resumed, expected in zip(fit(make(), 3, tmp_path / "cut"), whole, strict=True):
        assert_array_equal(resumed, expected)


def test_the_state_of_magnet_batches_comes_back(tmp_path):
    def make_batches():
        return MagnetBatches(*images(), 3, 2, 3, 4, steps_per_epoch=2)

    model, batches = classifier(clusters=2, loss=MagnetLoss()), make_batches()
    checkpoint = EpochCheckpoint(tmp_path, batches)
    model.fit(batches, epochs=2, verbose=0, callbacks=[KMeansRefresh(batches), checkpoint])
    with pytest.raises(ValueError, match="was saved with MagnetBatches, and is to be restored without"):
        EpochCheckpoint(tmp_path).restore(model)
    fresh = make_batches()
    assert EpochCheckpoint(tmp_path, fresh).restore(classifier(clusters=2, loss=MagnetLoss())) == 2
    for name, value in batches.get_state().items():
        assert_array_equal(fresh.get_state()[name], value)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    checkpoint = EpochCheckpoint(tmp_path)
    classifier().fit(*images(), epochs=1, verbose=0, callbacks=[checkpoint])
    with pytest.raises(ValueError, match="do not fit the model's"):
        checkpoint.restore(classifier(width=5))


def test_counters_of_other_callbacks_come_back(tmp_path):
    plateau = keras.callbacks.ReduceLROnPlateau(monitor="loss", patience=5, min_delta=100.0)
    checkpoint = EpochCheckpoint(tmp_path, callbacks=[plateau])
    classifier().fit(*images(), epochs=3, verbose=0, callbacks=[plateau, checkpoint])
    fresh = keras.callbacks.ReduceLROnPlateau(monitor="loss", patience=5, min_delta=100.0)
    checkpoint, model = EpochCheckpoint(tmp_path, callbacks=[fresh]), classifier()
    assert checkpoint.restore(model) == 3
    model.fit(*images(), initial_epoch=3, epochs=3, verbose=0, callbacks=[fresh, checkpoint])
    assert (fresh.wait, fresh.best) == (plateau.wait, plateau.best) != (0, np.inf)


def test_a_write_that_was_cut_short_leaves_the_old_file(tmp_path, monkeypatch):
    checkpoint = EpochCheckpoint(tmp_path)
    model = classifier()
    model.fit(*images(), epochs=1, verbose=0, callbacks=[checkpoint])
    before = checkpoint.path.read_bytes()

    def fail(file, **arrays):
        file.write(b"half of it")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.on_epoch_end(1)
    assert checkpoint.path.read_bytes() == before
    assert pathlib.Path(checkpoint.path).name == "checkpoint.npz"
