import json
import os
import signal
import subprocess
import sys

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from clustr_keras.serving.batching import BatchingParameters
from clustr_keras.serving.model_server import ModelServer

# Writes down how it was called, and with which files; then waits for a signal.
FAKE = """#!{python}
import json, pathlib, signal, sys
flags = dict(argument[2:].split("=", 1) for argument in sys.argv[1:])
files = {{name: pathlib.Path(path).read_text() for name, path in flags.items() if name.endswith("_file")}}
pathlib.Path({log!r}).write_text(json.dumps([sys.argv, flags, files]))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("ready", flush=True)
if {waits}:
    signal.pause()
sys.exit({status})
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Puts a binary of that name on the PATH; returns what makes it, and reads what it wrote."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")

    def make(waits=False, status=0):
        binary = tmp_path / "bin" / "tensorflow_model_server"
        log = str(tmp_path / "log.json")
        binary.write_text(FAKE.format(python=sys.executable, log=log, waits=waits, status=status))
        binary.chmod(0o755)
        return lambda: json.loads((tmp_path / "log.json").read_text())

    return make


@pytest.fixture
def model_dir(tmp_path):
    (tmp_path / "my models" / "1").mkdir(parents=True)
    return tmp_path / "my models"


def test_modelserver_is_started_with_absolute_paths_and_the_ports_that_are_told(fake, model_dir, monkeypatch):
    read = fake()
    monkeypatch.chdir(model_dir.parent)
    server = ModelServer(model_dir.name, name="m", labels={"stable": 1})
    told = []
    server.run(on_ready=lambda server: told.append((server.grpc_target, server.rest_url)))
    argv, flags, files = read()
    assert os.path.isabs(argv[0])
    assert told == [(f"127.0.0.1:{flags['port']}", f"http://127.0.0.1:{flags['rest_api_port']}")]
    assert 0 < int(flags["port"]) != int(flags["rest_api_port"]) > 0
    [config] = (
        text_format.Parse(files["model_config_file"], model_server_config_pb2.ModelServerConfig())
    ).model_config_list.config
    assert (config.name, config.base_path, dict(config.version_labels)) == ("m", str(model_dir), {"stable": 1})
    assert "/monitoring/prometheus/metrics" in files["monitoring_config_file"]
    assert flags["enable_batching"] == flags["allow_version_labels_for_unavailable_models"] == "true"


def test_a_file_of_models_is_passed_on_as_it_is(fake, model_dir, tmp_path):
    read = fake()
    file = tmp_path / "models.config"
    file.write_text(
        f'model_config_list {{ config {{ name: "m" base_path: "{model_dir}" model_platform: "tensorflow" }} }}'
    )
    server = ModelServer(model_config_file=file)
    assert server.names == ["m"]
    server.run()
    assert read()[2]["model_config_file"] == file.read_text()


def test_batches_are_bounded_as_they_are_in_the_local_server(fake, model_dir):
    read = fake()
    batching = BatchingParameters(max_batch_size=8, max_enqueued_batches=5, num_batch_threads=3)
    ModelServer(model_dir, batching=batching).run()
    lines = read()[2]["batching_parameters_file"].splitlines()
    assert "max_execution_batch_size { value: 8 }" in lines
    assert "max_batch_size { value: 40 }" in lines
    assert "max_enqueued_batches { value: 5 }" in lines
    assert "num_batch_threads { value: 3 }" in lines


def test_ports_that_are_given_are_kept(fake, model_dir):
    fake()
    server = ModelServer(model_dir, grpc_port=18500, rest_port=18501)
    assert (server.grpc_port, server.rest_port) == (18500, 18501)


def test_a_failure_is_an_error(fake, model_dir):
    fake(status=3)
    with pytest.raises(RuntimeError, match="exit status 3"):
        ModelServer(model_dir).run()


def test_a_signal_is_passed_on_and_ends_it_well(fake, model_dir):
    read = fake(waits=True)
    script = f"from clustr_keras.serving.model_server import ModelServer; ModelServer({str(model_dir)!r}).run()"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert not os.path.exists(read()[1]["model_config_file"])  # no files are left behind


def test_without_the_binary_or_the_folder_nothing_is_started(fake, model_dir, tmp_path, monkeypatch):
    fake()
    with pytest.raises(FileNotFoundError, match="Export a model first"):
        ModelServer(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="is not on the PATH"):
        ModelServer(model_dir, binary="no_such_binary")
