"""A budget of seconds for `fit`."""

import math
import pathlib
import sys

import keras

sys.path.insert(0, str(pathlib.Path(__file__).parent / "peers"))
from clock import Timed


class Budget(Timed, keras.callbacks.Callback):
    """Ends the training after some seconds; until then the learning rate rises for a twentieth, then falls to 0.

    Args:
        seconds: Float, by a `Clock`.
        learning_rate: Float, the peak.

    Attributes:
        clock: `Clock`.
        steps: Integer.
    """

    def on_train_batch_begin(self, batch, logs=None):
        """Sets the learning rate by the clock."""
        rising = min(1.0, (self.share + 0.01) / 0.05)
        falling = 0.5 * (1 + math.cos(math.pi * self.share))
        self.model.optimizer.learning_rate.assign(self.learning_rate * rising * falling)
