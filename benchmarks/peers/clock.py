"""How long a training has had. Imported by the peers' scripts too, so that it needs nothing."""

import collections
import resource
import statistics
import time


class Clock:
    """Seconds that a training has had: a pause, in which the process was suspended, does not count.

    Attributes:
        spent: Float, seconds of all steps. One that took over ten times the median of the last ones counts as that.
        cpu: Float, seconds of processor time, of all cores, meanwhile.
    """

    def __init__(self):
        self.spent, self.cpu = 0.0, 0.0
        self._last, self._first_cpu, self._steps = None, None, collections.deque(maxlen=50)

    def tick(self):
        """Called after each step; the first one, which compiles, only starts the clock."""
        now, usage = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        cpu = usage.ru_utime + usage.ru_stime
        if self._last is None:
            self._last, self._first_cpu = now, cpu
            return
        step = now - self._last
        if len(self._steps) >= 10 and step > 10.0 * statistics.median(self._steps):
            step = statistics.median(self._steps)
        self._steps.append(step)
        self.spent += step
        self.cpu, self._last = cpu - self._first_cpu, now


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
