"""Trains a GloRo network and writes its certified radii. Run by certified_accuracy.py in GloRo's environment.

Settings: `network` "2C2F", "4C3F", "6C2F" or "mlp"; `epsilon`, the radius to train for; `loss` as GloRo names it;
`epsilon_schedule`; `trades_schedule`; `batch_size`; `learning_rate`; `passes` through the images in an epoch, after
each of which the power method starts anew; those of `peer.batches`. The schedules are GloRo's own and count epochs,
so the first epochs are timed to find their number; a training that then takes a tenth more or less than its time is
made once more.
"""

import time

import numpy as np
import tensorflow as tf
from clock import Clock
from gloro import GloroNet
from gloro.layers import MinMax
from gloro.training import losses
from gloro.training.callbacks import EpsilonScheduler, LrScheduler, TradesScheduler, UpdatePowerIterates
from peer import arguments, batches, write
from tensorflow.keras.layers import Conv2D, Dense, Flatten, Input


def network(name, input_shape):
    """GloRo's own convolutional networks, or the MLP of the others; orthogonal at the start, as its own are."""
    convolutions, widths = {
        "2C2F": (((16, 4, 2), (32, 4, 2)), (100,)),
        "4C3F": (((32, 3, 1), (32, 4, 2), (64, 3, 1), (64, 4, 2)), (512, 512)),
        "6C2F": (((32, 3, 1), (32, 3, 1), (32, 4, 2), (64, 3, 1), (64, 3, 1), (64, 4, 2)), (512,)),
        "mlp": ((), (512, 512, 256, 128)),
    }[name]
    x = z = Input(input_shape)
    for filters, size, stride in convolutions:
        z = Conv2D(filters, size, stride, padding="same", kernel_initializer="orthogonal")(z)
        z = MinMax()(z)
    z = Flatten()(z)
    for width in widths:
        z = MinMax()(Dense(width, kernel_initializer="orthogonal")(z))
    return x, Dense(10, kernel_initializer="orthogonal")(z)


def compiled(settings, input_shape):
    """A fresh network."""
    model = GloroNet(*network(settings["network"], input_shape), epsilon=settings["epsilon"])
    optimizer = tf.keras.optimizers.Adam(settings.get("learning_rate", 1e-3))
    model.compile(loss=losses.get(settings["loss"]), optimizer=optimizer)
    return model


class EpochTimes(tf.keras.callbacks.Callback):
    """Notes when epochs end; stops after two of them and half a minute, both counted from the end of the first."""

    def __init__(self):
        super().__init__()
        self.ended = []

    def on_epoch_end(self, epoch, logs=None):
        """Called by `fit`."""
        self.ended.append(time.perf_counter())
        self.model.stop_training = len(self.ended) > 2 and self.ended[-1] - self.ended[0] > 30.0


def seconds_per_epoch(settings, data, dataset):
    """Median time of some epochs of a network that is thrown away, after one that compiles."""
    times = EpochTimes()
    callbacks = [UpdatePowerIterates(verbose=False), times]
    compiled(settings, data["x_train"].shape[1:]).fit(dataset, epochs=1000, verbose=0, callbacks=callbacks)
    return float(np.median(np.diff(times.ended)))


class Ticking(tf.keras.callbacks.Callback):
    """A clock that ticks after each batch, and at the end."""

    def __init__(self):
        super().__init__()
        self.clock = Clock()

    def on_train_batch_end(self, batch, logs=None):
        """Called by `fit`."""
        self.clock.tick()

    def on_train_end(self, logs=None):
        """Called by `fit`."""
        self.clock.tick()


def trained(settings, data, dataset, epochs, seed):
    """A network and its clock, after some epochs under GloRo's schedules."""
    tf.keras.utils.set_random_seed(seed)
    model = compiled(settings, data["x_train"].shape[1:])
    ticking = Ticking()
    callbacks = [
        EpsilonScheduler(settings.get("epsilon_schedule", "[0.01]-log-[50%:1.1]-[1.1]"), verbose=False),
        LrScheduler("decay_after_half_to_0.000001", verbose=False),
        UpdatePowerIterates(verbose=False),
        ticking,
    ]
    if "trades_schedule" in settings:
        callbacks.append(TradesScheduler(settings["trades_schedule"], verbose=False))
    model.fit(dataset, epochs=epochs, verbose=0, callbacks=callbacks)
    return model, ticking.clock


if __name__ == "__main__":
    asked = arguments()
    settings, data = asked.settings, np.load(asked.data)
    dataset = batches(data, settings.get("batch_size", 256), asked.seed, settings)
    passes = settings.get("passes", 1)
    dataset = dataset.repeat(passes)
    epochs = max(2, round(asked.seconds / seconds_per_epoch(settings, data, dataset)))
    model, clock = trained(settings, data, dataset, epochs, asked.seed)
    if abs(clock.spent / asked.seconds - 1.0) > 0.1:  # once more, since the first epochs were not like the others
        epochs = max(2, round(epochs * asked.seconds / clock.spent))
        model, clock = trained(settings, data, dataset, epochs, asked.seed)
    model.freeze_lipschitz_constant()
    parts = [model.predict_with_certified_radius(part) for part in np.split(data["x_test"], len(data["x_test"]) // 500)]
    logits, radius = (np.concatenate(part) for part in zip(*parts, strict=True))
    write(asked, logits.argmax(-1), radius.reshape(-1), clock, epochs * passes)
