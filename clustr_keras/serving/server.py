"""LocalServer: serves model directories on this machine, in TensorFlow Serving's protocols.

    models      by name, from one folder or a file  model_config.py, model_stores.py
                versions in a directory             model_store.py, loaded_model.py, warmup.py, model_info.py
    requests    found, bounded, run in batches      predictor.py, batching.py
    gRPC        PredictionService, ModelService     grpc_service.py, tensor_proto.py
    REST        /v1/models/...                      rest.py, predict_json.py, tensor_json.py
    errors      one class, two protocols            errors.py
    metrics     for Prometheus                      monitoring.py

Both protocols run in one event loop. It only moves bytes: messages are read and written on one pool of threads, models
run on another.
"""

import asyncio
import concurrent.futures
import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Self

import uvicorn

from clustr_keras.serving.batching import BatchingParameters
from clustr_keras.serving.grpc_service import build_grpc_server
from clustr_keras.serving.model_config import model_configs
from clustr_keras.serving.predictor import Predictor
from clustr_keras.serving.rest import build_rest_app

_log = logging.getLogger(__name__)


class LocalServer:
    """Serves the versions in a model directory, or in those of many models, over gRPC and REST.

    The newest version answers unless a request names another, by number or by label. New version folders are picked up
    and deleted ones dropped while it runs. Requests of many callers run together in batches. Metrics for Prometheus are
    at `/monitoring/prometheus/metrics` of the REST port.

    Args:
        model_dir: The folder that holds the version folders; or `None`, with `model_config_file`.
        name: The model's name in requests; with `model_dir` only.
        grpc_port: Port for gRPC; 0 picks a free one.
        rest_port: Port for REST; 0 picks a free one.
        host: Address to listen on. Only this machine can reach the default.
        labels: Label to version number, `{"stable": 1, "canary": 2}` for example; with `model_dir` only.
        model_config_file: Path of a file in place of `model_dir`, that names models, their folders, which versions are
            served, and labels: what `tensorflow_model_server --model_config_file` takes. It is read once.
        batching: `BatchingParameters`: what runs together, and how much may wait.
        max_request_bytes: Largest request. A larger one is RESOURCE_EXHAUSTED, over REST 413.
        max_bytes_under_way: Most memory for requests at a time; JSON counts eight times. Beyond it they are
            UNAVAILABLE, over REST 503. A gRPC message is counted once it is there: up to 64 for each connection.
        rest_timeout_seconds: How long a REST request may wait for its turn; over gRPC the caller's deadline says so.
        poll_seconds: How often the directory is looked at for new and deleted versions.
        grace_seconds: How long requests under way may take after a stop.

    Raises:
        OSError: If `model_config_file` cannot be read.
        ValueError: If an argument is out of range, or `model_config_file` is no such file.

    Example:
    >>> with LocalServer("runs/demo/serving/clustr") as server:
    ...     Client(server.grpc_target).predict(images).class_ids
    array([7, 2, 1])
    """

    def __init__(
        self,
        model_dir: str | os.PathLike[str] | None = None,
        name: str = "clustr",
        grpc_port: int = 0,
        rest_port: int = 0,
        host: str = "127.0.0.1",
        *,
        labels: Mapping[str, int] | None = None,
        model_config_file: str | os.PathLike[str] | None = None,
        batching: BatchingParameters | None = None,
        max_request_bytes: int = 64 * 2**20,
        max_bytes_under_way: int = 2**30,
        rest_timeout_seconds: float = 30.0,
        poll_seconds: float = 1.0,
        grace_seconds: float = 30.0,
    ) -> None:
        """Check the arguments; no model is read and nothing listens before `start`."""
        for what, port in (("grpc_port", grpc_port), ("rest_port", rest_port)):
            if not 0 <= port <= 65535:
                raise ValueError(f"{what} must lie in 0..65535, 0 for a free one; got {port}.")
        if grpc_port and grpc_port == rest_port:
            raise ValueError(f"grpc_port and rest_port must differ; got {grpc_port} for both. Pass 0 for a free one.")
        self.host = host
        self.grpc_port = grpc_port
        self.rest_port = rest_port
        self._predictor = Predictor(
            model_configs(model_dir, name, labels, model_config_file),
            batching or BatchingParameters(),
            max_request_bytes,
            max_bytes_under_way,
        )
        self._stores = self._predictor.stores
        self._rest_timeout_seconds = rest_timeout_seconds
        self._poll_seconds = poll_seconds
        self._grace_seconds = grace_seconds
        self._thread: threading.Thread | None = None
        self._request_stop: Callable[[], object] | None = None

    @property
    def names(self) -> list[str]:
        """Names of the models."""
        return self._stores.names

    @property
    def grpc_target(self) -> str:
        """`host:port` for gRPC clients on this machine."""
        return f"{_reachable(self.host)}:{self.grpc_port}"

    @property
    def rest_url(self) -> str:
        """`http://host:port` for REST clients on this machine."""
        return f"http://{_reachable(self.host)}:{self.rest_port}"

    def start(self) -> None:
        """Load the models and listen, in a thread of its own. Returns once both ports answer.

        Raises:
            OSError: If the directory is missing or a port is in use.
            ValueError: If a directory holds no version that loads.
            RuntimeError: If the server runs already.
        """
        if self._thread:
            raise RuntimeError("this server runs already; stop it first, or make another one.")
        self._stores.load()
        ready: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._thread_main, args=(ready,), name="clustr-server", daemon=True)
        self._thread.start()
        try:
            ready.result()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop listening, let requests under way finish, and return when all is done. Does nothing if stopped."""
        if not self._thread:
            return
        if self._request_stop:
            self._request_stop()
        self._thread.join()
        self._thread = self._request_stop = None

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop."""
        self.stop()

    def run(self, on_ready: Callable[[Self], object] | None = None) -> None:
        """Serve until SIGTERM, SIGINT or a `stop` elsewhere; requests under way may finish. In the main thread only.

        Args:
            on_ready: Called with this server once both ports answer, to print them for example.

        Raises:
            OSError, ValueError: As `start`.
            RuntimeError: If the server stops by itself.
        """
        signalled = threading.Event()
        previous = {
            number: signal.signal(number, lambda *_: signalled.set()) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            with self:
                # What is there stays. A large JSON body is many lists, and each collection that they set off would look
                # through all of TensorFlow's objects for 0.2 s.
                gc.collect()
                gc.freeze()
                if on_ready:
                    on_ready(self)
                while self._thread is not None and not signalled.wait(0.5):
                    thread = self._thread  # none, once another thread has stopped it
                    if thread is not None and not thread.is_alive():
                        raise RuntimeError("the server stopped by itself; its log says why.")
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _thread_main(self, ready):
        try:
            asyncio.run(self._serve(ready))
        except BaseException as error:
            if ready.done():
                _log.exception("the server stopped")
            else:
                ready.set_exception(error)

    async def _serve(self, ready):
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._request_stop = lambda: loop.is_closed() or loop.call_soon_threadsafe(stop.set)
        with self._predictor.threads():
            grpc_server, rest_server, rest_socket = self._bind()
            await grpc_server.start()
            tasks = [
                asyncio.create_task(rest_server.serve(sockets=[rest_socket])),
                asyncio.create_task(self._poll()),
                asyncio.create_task(stop.wait()),
            ]
            ready.set_result(None)
            try:
                # The first two end only by an error, which must not leave half a server behind.
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                rest_server.should_exit = True
                for task in tasks[1:]:
                    task.cancel()
                await asyncio.gather(*tasks, grpc_server.stop(self._grace_seconds), return_exceptions=True)
            for task in done:
                task.result()

    def _bind(self):
        """Take both ports, or neither."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            rest_socket = socket.create_server((self.host, self.rest_port), family=family)
        except OSError as error:
            raise _cannot_listen("rest_port", self.host, self.rest_port, error) from None
        # Accepted connections inherit it. asyncio sets it only on sockets made with an explicit protocol number, and
        # without it every answer waits 40 ms for the client's acknowledgement.
        rest_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        grpc_server = build_grpc_server(self._predictor)
        try:
            self.grpc_port = grpc_server.add_insecure_port(f"{_bracketed(self.host)}:{self.grpc_port}")
        except RuntimeError as error:
            rest_socket.close()
            raise _cannot_listen("grpc_port", self.host, self.grpc_port, error) from None
        self.rest_port = rest_socket.getsockname()[1]
        rest_server = uvicorn.Server(
            uvicorn.Config(
                build_rest_app(self._predictor, self._rest_timeout_seconds),
                # It limits the headers, which httptools does not.
                http="h11",
                h11_max_incomplete_event_size=64 * 2**10,
                lifespan="off",
                ws="none",
                log_config=None,  # logging is the application's to configure
                access_log=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=self._grace_seconds,  # type: ignore[arg-type]  # floats do as well
            )
        )
        return grpc_server, rest_server, rest_socket

    async def _poll(self):
        while True:
            await asyncio.sleep(self._poll_seconds)
            await asyncio.to_thread(self._stores.refresh)


def _cannot_listen(what, host, port, error):
    option = f"--{what.replace('_', '-')}"
    return OSError(
        f"cannot listen on {host}:{port} ({error}). Free the port, or pass {what}=0 ({option} 0) for any free one."
    )


def _bracketed(host):
    return f"[{host}]" if ":" in host else host


def _reachable(host):
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, _bracketed(host))
