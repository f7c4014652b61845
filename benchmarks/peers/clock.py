"""How long a training has had. Imported by the peers' scripts too, so that it needs nothing."""

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

    Attributes:
        clock: `Clock`.
        steps: Integer.
        share: Float, share of the seconds that is over.
    """

    def __init__(self, seconds, learning_rate):
        super().__init__()
        self.seconds, self.learning_rate = seconds, learning_rate
        self.clock, self.steps = Clock(), 0

    @property
    def share(self):
        """Share of the seconds that is over, at most 1."""
        return min(1.0, self.clock.spent / self.seconds)

    def on_train_batch_end(self, batch, logs=None):
        """Looks at the clock."""
        self.steps += 1
        self.clock.tick()
        if self.clock.spent > self.seconds:
            self.model.stop_training = True
