"""How long a training has had. Imported by the peers' scripts too, so that it needs nothing."""

import math
import resource
import time


class Clock:
    """Seconds that a training has had since its first step, which compiles.

    Attributes:
        spent: Float, seconds.
        cpu: Float, seconds of processor time, of all cores, meanwhile.
    """

    def __init__(self):
        self.spent, self.cpu = 0.0, 0.0
        self._began = None

    def tick(self):
        """Called after each step."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        now, cpu = time.perf_counter(), usage.ru_utime + usage.ru_stime
        if self._began is None:
            self._began = now, cpu
        self.spent, self.cpu = now - self._began[0], cpu - self._began[1]


class Timed:
    """Half of a Keras callback, of either version, that ends a training after some seconds by a `Clock`.

    Until then the learning rate rises from 0, then falls to 0 along a cosine.

    Args:
        seconds: Float.
        learning_rate: Float, the peak.
        warmup: Float, share of the seconds in which it rises; the cosine counts from the start.

    Attributes:
        clock: `Clock`.
        steps: Integer.
        share: Float, share of the seconds that is over.
    """

    def __init__(self, seconds, learning_rate, warmup):
        super().__init__()
        self.seconds, self.learning_rate, self.warmup = seconds, learning_rate, warmup
        self.clock, self.steps = Clock(), 0

    @property
    def share(self):
        """Share of the seconds that is over, at most 1."""
        return min(1.0, self.clock.spent / self.seconds)

    def on_train_batch_begin(self, batch, logs=None):
        """Sets the learning rate by the clock."""
        rising = min(1.0, (self.share + 0.01) / self.warmup) if self.warmup else 1.0
        falling = 0.5 * (1.0 + math.cos(math.pi * self.share))
        self.model.optimizer.learning_rate.assign(self.learning_rate * rising * falling)

    def on_train_batch_end(self, batch, logs=None):
        """Looks at the clock."""
        self.steps += 1
        self.clock.tick()
        if self.clock.spent > self.seconds:
            self.model.stop_training = True
