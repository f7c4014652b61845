"""A budget of seconds for `fit`."""

import math
import pathlib
import sys

import keras

sys.path.insert(0, str(pathlib.Path(__file__).parent / "peers"))
from clock import Clock


class Budget(keras.callbacks.Callback):
    """Ends the training after some seconds; until then the learning rate rises for a twentieth, then falls to 0.

    Args:
        seconds: Float, by a `Clock`.
        learning_rate: Float, the peak.

    Attributes:
        clock: `Clock`.
        steps: Integer.
    """

    def __init__(self, seconds, learning_rate):
        super().__init__()
        self.seconds, self.learning_rate = seconds, learning_rate
        self.clock, self.steps = Clock(), 0

    def on_train_batch_begin(self, batch, logs=None):
        """Sets the learning rate by the clock."""
        share = min(1.0, self.clock.spent / self.seconds)
        rising = min(1.0, (share + 0.01) / 0.05)
        self.model.optimizer.learning_rate.assign(self.learning_rate * rising * 0.5 * (1 + math.cos(math.pi * share)))

    def on_train_batch_end(self, batch, logs=None):
        """Looks at the clock."""
        self.steps += 1
        self.clock.tick()
        if self.clock.spent > self.seconds:
            self.model.stop_training = True
