"""A budget of seconds for `fit`."""

import math
import time

import keras


class Budget(keras.callbacks.Callback):
    """Ends the training after some seconds; until then the learning rate rises for a twentieth, then falls to 0.

    Args:
        seconds: Float; the clock starts after the first step, which compiles.
        learning_rate: Float, the peak.

    Attributes:
        spent: Float, seconds.
        steps: Integer.
    """

    def __init__(self, seconds, learning_rate):
        super().__init__()
        self.seconds, self.learning_rate = seconds, learning_rate
        self.start, self.spent, self.steps = None, 0.0, 0

    def on_train_batch_begin(self, batch, logs=None):
        """Sets the learning rate by the clock."""
        share = min(1.0, self.spent / self.seconds)
        rising = min(1.0, (share + 0.01) / 0.05)
        self.model.optimizer.learning_rate.assign(self.learning_rate * rising * 0.5 * (1 + math.cos(math.pi * share)))

    def on_train_batch_end(self, batch, logs=None):
        """Looks at the clock."""
        self.steps += 1
        if self.start is None:
            self.start = time.perf_counter()
        self.spent = time.perf_counter() - self.start
        if self.spent > self.seconds:
            self.model.stop_training = True
