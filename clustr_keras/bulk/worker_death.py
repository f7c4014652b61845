"""Tells Beam when a worker process of this machine has died, of which it takes no notice: it would wait for ever."""

import contextlib
import logging
import threading
from collections.abc import Iterator

from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner.worker_handlers import SubprocessSdkWorkerHandler, WorkerHandler

DEATH = "a worker process was killed or crashed; it may have run out of memory."
# Between looks for what Beam asks of the dead.
_SECONDS = 1.0
LOGGER = logging.getLogger(__name__)


class _MortalWorkerHandler(SubprocessSdkWorkerHandler):
    """Starts and ends a worker as Beam does, and answers in its place with an error if it dies in between."""

    def start_worker(self) -> None:
        """Starts it."""
        self._over = threading.Event()
        super().start_worker()
        threading.Thread(target=self._answer_for_the_dead, daemon=True).start()

    def close(self) -> None:
        """Ends it."""
        self._over.set()
        super().close()

    def _answer_for_the_dead(self) -> None:
        self.worker_thread.join()
        while not self._over.is_set():
            for name, future in list(self.control_conn._futures_by_id.items()):
                LOGGER.error(DEATH)
                future.set(beam_fn_api_pb2.InstructionResponse(instruction_id=name, error=DEATH))
            self._over.wait(_SECONDS)


@contextlib.contextmanager
def deaths_reported() -> Iterator[None]:
    """Pipelines of local workers that run within stop with a `RuntimeError` if a worker dies."""
    known = WorkerHandler._registered_environments
    before = known[python_urns.SUBPROCESS_SDK]
    WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)(_MortalWorkerHandler)
    try:
        yield
    finally:
        known[python_urns.SUBPROCESS_SDK] = before
