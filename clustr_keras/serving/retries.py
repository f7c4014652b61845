"""How long a request may take, and when it is sent again. Nothing here waits: the clients do."""

import random
import time

from clustr_keras.serving.errors import ServingError

# Waits before the second, third, ... attempt: doubling from the first to the last of these.
_FIRST_WAIT = 0.1
_LONGEST_WAIT = 1.0


class Deadline:
    """A moment, some seconds from now.

    Args:
        seconds: Float.

    Attributes:
        seconds: As given.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds until then, and hardly any afterwards: no protocol takes a timeout of 0."""
        return max(self._end - time.monotonic(), 1e-3)


class Retries:
    """Decides after each failure of one request.

    Args:
        attempts: How often it may be sent in all.
        deadline: A `Deadline`, which no wait may pass.
    """

    def __init__(self, attempts: int, deadline: Deadline) -> None:
        self._left = attempts
        self._deadline = deadline
        self._wait = _FIRST_WAIT

    def wait_after(self, error: ServingError) -> float | None:
        """How long to wait before the next attempt.

        Only UNAVAILABLE is worth another one. RESOURCE_EXHAUSTED is not: a body that is too large stays so, and a
        server that sheds load must not get more of it.

        Args:
            error: The `ServingError`.

        Returns:
            Seconds, or None if there shall be no other attempt.
        """
        self._left -= 1
        # Half of it is chance, so that many clients of a server that restarts do not come back all at once.
        wait = self._wait * random.uniform(0.5, 1.0)
        self._wait = min(2 * self._wait, _LONGEST_WAIT)
        may_retry = error.code == "UNAVAILABLE" and self._left > 0 and wait < self._deadline.remaining()
        return wait if may_retry else None
