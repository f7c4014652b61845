"""Time of a training step of ResNet-18: cross-entropy, magnet loss, QTRADES and TRADES-10; and between two steps.

Run: python benchmarks/training_step.py
"""

import statistics
import time

import keras
import numpy as np
from results import machine, write_results

from clustr_keras import ClustrClassifier, MagnetLoss
from clustr_keras.backbones import CIFAR10_MEAN, CIFAR10_STD, resnet18
from clustr_keras.consistency import QTRADES, TRADES
from clustr_keras.data import CropAndFlip
from clustr_keras.training import KMeansRefresh, MagnetBatches

BATCH = 240
ROUNDS = 3
STEPS = 6
EXAMPLES = 2400
SEED = 0


def compiled(loss, consistency=None):
    """A classifier on its own ResNet-18, compiled as its recipe does."""
    keras.utils.set_random_seed(SEED)
    model = ClustrClassifier(resnet18(mean=CIFAR10_MEAN, std=CIFAR10_STD), num_classes=10, clusters_per_class=2)
    model.head.trainable = not isinstance(loss, MagnetLoss)
    model.compile(keras.optimizers.Adam(1e-4), loss, consistency=consistency, metrics=[])
    return model


def magnet_batches():
    """Random images of CIFAR-10's shape, drawn and augmented by `MagnetBatches`."""
    rng = np.random.default_rng(SEED)
    labels = np.arange(EXAMPLES) % 10
    images = rng.integers(0, 256, size=(EXAMPLES, 32, 32, 3), dtype="uint8")
    return MagnetBatches(images, labels, 10, steps_per_epoch=STEPS, augmentation=CropAndFlip(), seed=SEED)


def step_seconds(models, batches):
    """Median seconds of a step of each model on one batch; they take turns."""
    images, y, weights = batches.example_batch()
    # Clusters as they come: 20 rows each of 12 clusters, of 6 classes.
    y = np.stack([np.arange(BATCH) // 40, np.arange(BATCH) // 20], axis=-1).astype("int32")
    times = {name: [] for name in models}
    for round_number in range(ROUNDS + 1):
        for name, model in models.items():
            has_clusters = isinstance(model.loss, MagnetLoss)
            start = time.perf_counter()
            model.train_on_batch(images, y if has_clusters else y[:, 0], np.ones_like(weights))
            if round_number:  # the first one compiles
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(of_step) for name, of_step in times.items()}


class _Clock(keras.callbacks.Callback):
    """Notes when steps begin or end; one before all other callbacks, one behind them."""

    def __init__(self):
        super().__init__()
        self.begun, self.ended = [], []

    def on_train_batch_begin(self, batch, logs=None):
        self.begun.append(time.perf_counter())

    def on_train_batch_end(self, batch, logs=None):
        self.ended.append(time.perf_counter())


def between_steps(model, batches):
    """Median seconds from the end of a step to the beginning of the next in `fit`, with what it waits for its batch."""
    first, last = _Clock(), _Clock()
    callbacks = [first, KMeansRefresh(batches), last]
    model.fit(batches, epochs=1, verbose=0, callbacks=callbacks)
    between = np.array(last.begun[1:]) - np.array(first.ended[:-1])
    return float(np.median(between + batches.seconds_waited[1:]))


if __name__ == "__main__":
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    models = {
        "cross-entropy": compiled(plain),
        "magnet": compiled(MagnetLoss()),
        "magnet + QTRADES": compiled(MagnetLoss(), QTRADES()),
        "magnet + TRADES-10": compiled(MagnetLoss(), TRADES(steps=10)),
    }
    batches = magnet_batches()
    seconds = step_seconds(models, batches)
    rows = [(name, of_step, of_step / seconds["cross-entropy"], "cross-entropy") for name, of_step in seconds.items()]
    waiting = between_steps(models["magnet"], batches)
    rows.append(("between magnet steps: sampling, bookkeeping", waiting, waiting / seconds["magnet"], "magnet"))
    write_results(
        __file__,
        [
            {
                "step": name,
                "seconds": round(of_step, 4),
                "ratio": round(ratio, 4),
                "of": reference,
                "network": f"ResNet-18 at 32x32, batch {BATCH}",
                "seed": SEED,
                **machine(),
            }
            for name, of_step, ratio, reference in rows
        ],
    )
