"""Runs TensorFlow's own server, the binary `tensorflow_model_server`, in place of `LocalServer`."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from typing import Self

from clustr_keras.serving.batching import BatchingParameters
from clustr_keras.serving.monitoring import METRICS_PATH


class ModelServer:
    """Serves a model directory by ModelServer, with the same choices as `LocalServer`.

    ModelServer listens on all interfaces and cannot be told otherwise.

    Args:
        model_dir: The folder that holds the version folders.
        name: The model's name in requests.
        grpc_port, rest_port: Ports; 0 picks a free one.
        labels: Label to version number.
        batching: `BatchingParameters`.
        poll_seconds: How often the directory is looked at for new and deleted versions.
        binary: Name or path of the binary.

    Raises:
        FileNotFoundError: If the binary or the directory is missing.

    Example:

    >>> ModelServer("serving/clustr").run()
    """

    def __init__(
        self,
        model_dir: str | os.PathLike[str],
        name: str = "clustr",
        grpc_port: int = 0,
        rest_port: int = 0,
        *,
        labels: Mapping[str, int] | None = None,
        batching: BatchingParameters | None = None,
        poll_seconds: float = 1.0,
        binary: str | os.PathLike[str] = "tensorflow_model_server",
    ) -> None:
        found = shutil.which(binary)
        if found is None:
            raise FileNotFoundError(f"{binary} is not on the PATH. Install it, or leave --engine out.")
        if not pathlib.Path(model_dir).is_dir():
            raise FileNotFoundError(f"model_dir is not a folder: {model_dir}. Export a model first.")
        self.binary = pathlib.Path(found).absolute()
        self.model_dir = pathlib.Path(model_dir).absolute()  # it refuses relative ones
        self.name = name
        self.grpc_port, self.rest_port = _free_ports(grpc_port, rest_port)
        self.labels = dict(labels or {})
        self.batching = batching or BatchingParameters()
        self.poll_seconds = poll_seconds

    @property
    def grpc_target(self) -> str:
        """`host:port` for gRPC clients on this machine."""
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def rest_url(self) -> str:
        """`http://host:port` for REST clients on this machine."""
        return f"http://127.0.0.1:{self.rest_port}"

    def command(self, config_dir: str | os.PathLike[str]) -> list[str]:
        """Writes ModelServer's configuration into a folder, and returns its command line, a list of strings."""
        files = {}
        for flag, text in (
            ("model_config_file", self._model_config()),
            ("batching_parameters_file", self._batching_config()),
            ("monitoring_config_file", f'prometheus_config {{ enable: true path: "{METRICS_PATH}" }}\n'),
        ):
            files[flag] = pathlib.Path(config_dir, flag).absolute()
            files[flag].write_text(text)
        flags = {
            "port": self.grpc_port,
            "rest_api_port": self.rest_port,
            "file_system_poll_wait_seconds": max(1, round(self.poll_seconds)),
            "allow_version_labels_for_unavailable_models": "true",
            "enable_batching": "true",
            **files,
        }
        return [str(self.binary), *(f"--{flag}={value}" for flag, value in flags.items())]

    def run(self, on_ready: Callable[[Self], object] | None = None) -> None:
        """Run it until it ends; SIGTERM and SIGINT are passed on to it.

        Args:
            on_ready: Called with this object once the process was started.

        Raises:
            RuntimeError: If it fails.
        """
        with tempfile.TemporaryDirectory(prefix="clustr-model-server-") as config_dir:
            stopped_by: list[int] = []
            processes: list[subprocess.Popen[bytes]] = []

            def pass_on(number, _):
                stopped_by.append(number)
                for process in processes:
                    process.send_signal(number)

            previous = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
            try:
                processes.append(subprocess.Popen(self.command(config_dir)))
                if stopped_by:  # meanwhile
                    processes[0].send_signal(stopped_by[0])
                if on_ready:
                    on_ready(self)
                status = processes[0].wait()
            finally:
                for process in processes:
                    if process.poll() is None:  # it must not outlive an error here
                        process.terminate()
                        process.wait()
                for number, handler in previous.items():
                    signal.signal(number, handler)
        if status and not stopped_by:
            raise RuntimeError(f"{self.binary} ended with exit status {status}.")

    def _model_config(self):
        # The policy "all" lets labels name older versions, as LocalServer does.
        labels = "".join(f"    version_labels {{ key: {json.dumps(k)} value: {v} }}\n" for k, v in self.labels.items())
        return (
            "model_config_list {\n  config {\n"
            f"    name: {json.dumps(self.name)}\n"
            f"    base_path: {json.dumps(str(self.model_dir))}\n"
            '    model_platform: "tensorflow"\n'
            "    model_version_policy { all {} }\n"
            f"{labels}  }}\n}}\n"
        )

    def _batching_config(self):
        batching = self.batching
        values = {
            # There the largest request, and the next the largest batch.
            "max_batch_size": batching.max_batch_size * batching.max_enqueued_batches,
            "max_execution_batch_size": batching.max_batch_size,
            "batch_timeout_micros": batching.batch_timeout_micros,
            "max_enqueued_batches": batching.max_enqueued_batches,
            "num_batch_threads": batching.num_batch_threads,
            "enable_large_batch_splitting": "true",
        }
        return "".join(f"{name} {{ value: {value} }}\n" for name, value in values.items())


def _free_ports(*ports):
    """The ports, with a free one in place of each 0; all held at once, so that no two agree."""
    with contextlib.ExitStack() as held:

        def free_port():
            return held.enter_context(socket.create_server(("", 0))).getsockname()[1]

        return [port or free_port() for port in ports]
