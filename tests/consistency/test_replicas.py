"""One step on two replicas, in a process of its own: logical devices are made before TensorFlow starts."""

import json
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose

PROGRAM = """
import gc, json, sys

gc.set_threshold(100_000, 50, 100)  # as in conftest.py
import keras
import numpy as np
import tensorflow as tf

# To optimize graphs that run a few times takes longer than it saves.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

from clustr_keras import ClustrClassifier
from clustr_keras.consistency import QTRADES, TRADES, EmbeddingConsistency, FreeAdversarialTraining
from clustr_keras.losses import MagnetLoss, magnet_losses


class Smallness(keras.losses.Loss):
    acts_on = "embeddings"

    def call(self, y_true, y_pred):
        return keras.ops.mean(y_pred**2, axis=-1)


rng = np.random.default_rng(0)
images, labels = rng.uniform(size=(8, 3, 3, 1)).astype("float32"), rng.integers(0, 4, 8)
settings = {
    "plain": {"run_eagerly": True},
    "qtrades": {"consistency": QTRADES(eps=0.1), "xent_lambda": 0.5},
    "embedding": {"loss": Smallness(), "consistency": EmbeddingConsistency(eps=0.1), "run_eagerly": True},
    "free": {"free": FreeAdversarialTraining(8, 0.05, 2)},
}


def classifier():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), keras.layers.Dense(8, "tanh", kernel_regularizer="l2"), keras.layers.Dense(3)]
    return ClustrClassifier(keras.Sequential([keras.Input((3, 3, 1)), *layers]), 4)


def deltas(settings, strategy):
    return strategy.experimental_local_results(settings["free"].delta.value) if "free" in settings else []


def trained(name, strategy):
    with strategy.scope():
        model = classifier()
        model.compile(keras.optimizers.SGD(0.1), **settings[name])
    steps = []
    for _ in range(2):
        steps.append(model.fit(images, labels, batch_size=8, shuffle=False, verbose=0).history["loss"][0])
    return {
        "weights": [variable.numpy().tolist() for variable in model.trainable_variables],
        "losses": steps,
        "training_step": int(model.training_step.numpy()),
        "delta": [part.numpy().tolist() for part in deltas(settings[name], strategy)],
    }


two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
found = {name: [trained(name, strategy) for strategy in (tf.distribute.get_strategy(), two)] for name in settings}

y = np.array([[0, 0], [1, 2], [2, 4], [3, 6]] * 2, "int32")  # each cluster on both replicas
with two.scope():
    model = classifier()
    model.compile(keras.optimizers.SGD(0.0), loss=MagnetLoss(alpha=4.0), consistency=TRADES(eps=0.1, steps=1))
model._make_example_losses(8)
batches = two.experimental_distribute_dataset(tf.data.Dataset.from_tensors((images, y)).unbatch().batch(8))
two.run(tf.function(model.train_step), args=(next(iter(batches)),))
found["magnet"] = {
    "expected": magnet_losses(model.backbone(images), *y.T, alpha=4.0)[0].numpy().tolist(),
    "found": [part.numpy().tolist() for part in two.experimental_local_results(model.example_losses.value)],
}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found():
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["plain", "qtrades", "embedding", "free"])
def test_two_replicas_train_as_one_device_does(found, name):
    one, two = found[name]
    for of_one, of_two in zip(one["weights"], two["weights"], strict=True):
        assert_allclose(of_two, of_one, atol=1e-5)
    assert_allclose(two["losses"], one["losses"], rtol=1e-5)
    assert one["losses"][1] != one["losses"][0]
    assert two["training_step"] == one["training_step"]


def test_free_training_perturbs_the_whole_batch_on_each_replica(found):
    one, two = found["free"]
    assert len(two["delta"]) == 2
    for of_replica in two["delta"]:
        assert_allclose(of_replica, one["delta"][0], atol=1e-7)
    assert np.abs(one["delta"][0]).max() == pytest.approx(0.05)


def test_the_losses_of_the_whole_batch_are_there_in_order(found):
    magnet = found["magnet"]
    assert len(magnet["found"]) == 2
    assert len(set(magnet["expected"])) > 4
    for of_replica in magnet["found"]:
        assert_allclose(of_replica, magnet["expected"], rtol=1e-5)
