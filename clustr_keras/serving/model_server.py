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
from clustr_keras.serving.model_config import model_configs
from clustr_keras.serving.monitoring import METRICS_PATH


class ModelServer:
    """Serves model directories by ModelServer, with the same choices as `LocalServer`.

    ModelServer listens on all interfaces and cannot be told otherwise.

    Args:
        model_dir, name, labels, model_config_file: As for `LocalServer`.
        grpc_port, rest_port: Ports; 0 picks a free one.
        batching: `BatchingParameters`.
        poll_seconds: How often the directory is looked at for new and deleted versions.
        binary: Name or path of the binary.

    Raises:
        OSError: If the binary, the directory or `model_config_file` is missing.
        ValueError: If `model_config_file` is no such file.

    Example:

    >>> ModelServer("serving/clustr").run()
    """

    def __init__(
        self,
        model_dir: str | os.PathLike[str] | None = None,
        name: str = "clustr",
        grpc_port: int = 0,
        rest_port: int = 0,
        *,
        labels: Mapping[str, int] | None = None,
        model_config_file: str | os.PathLike[str] | None = None,
        batching: BatchingParameters | None = None,
        poll_seconds: float = 1.0,
        binary: str | os.PathLike[str] = "tensorflow_model_server",
    ) -> None:
        found = shutil.which(binary)
        if found is None:
            raise FileNotFoundError(f"{binary} is not on the PATH. Install it, or leave --engine out.")
        self._configs = model_configs(model_dir, name, labels, model_config_file)
        for config in self._configs:
            if not pathlib.Path(config.model_dir).is_dir():
                raise FileNotFoundError(f"model_dir is not a folder: {config.model_dir}. Export a model first.")
        self._config_file = model_config_file
        self.binary = pathlib.Path(found).absolute()
        self.grpc_port, self.rest_port = _free_ports(grpc_port, rest_port)
        self.batching = batching or BatchingParameters()
        self.poll_seconds = poll_seconds

    @property
    def names(self) -> list[str]:
        """Names of the models."""
        return [config.name for config in self._configs]

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
            files[flag].write_text(text, encoding="utf-8")
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
        if self._config_file is not None:
            return pathlib.Path(self._config_file).read_text(encoding="utf-8")
        [config] = self._configs
        # The policy "all" lets labels name older versions, as LocalServer does.
        labels = "".join(
            f"    version_labels {{ key: {json.dumps(k)} value: {v} }}\n" for k, v in config.labels.items()
        )
        return (
            "model_config_list {\n  config {\n"
            f"    name: {json.dumps(config.name)}\n"
            # It refuses relative paths.
            f"    base_path: {json.dumps(str(pathlib.Path(config.model_dir).absolute()))}\n"
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
