import os
import shutil
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from clustr_keras.serving import Client, LocalServer, ServingError
from clustr_keras.serving.loaded_model import LoadedModel

X = {"x": np.float32([1, 2])}


@pytest.fixture(params=["grpc", "rest"])
def protocol(request):
    return request.param


def connect(server, protocol, **options):
    return Client(server.grpc_target if protocol == "grpc" else server.rest_url, model="toy", **options)


@pytest.fixture
def model_dir(tmp_path, toy_dir):
    """A directory with version 2 that a test may change."""
    shutil.copytree(toy_dir / "2", tmp_path / "toy" / "2")
    return tmp_path / "toy"


def wait_until_it_stops_listening(port):
    """Until the server has begun to stop. Ends at the latest when pytest's patience does."""
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=10).close()
        except ConnectionError:
            return


def test_zero_picks_free_ports_and_tells_them(toy_server):
    assert toy_server.grpc_port
    assert toy_server.rest_port
    assert toy_server.grpc_target == f"127.0.0.1:{toy_server.grpc_port}"
    assert toy_server.rest_url == f"http://127.0.0.1:{toy_server.rest_port}"


def test_probes_are_answered_while_every_thread_is_busy(toy_dir, gate, protocol):
    with (
        LocalServer(toy_dir, name="toy", num_threads=1) as server,
        connect(server, protocol, timeout=60) as client,
        ThreadPoolExecutor() as callers,
    ):
        busy = callers.submit(client.call, "slow", X)
        assert gate.entered.wait(30)
        for path in ("", "/metadata"):
            url = f"{server.rest_url}/v1/models/toy{path}"
            assert httpx.get(url, trust_env=False, timeout=30).status_code == 200
        assert not busy.done()
        gate.opened.set()
        assert busy.result(30)["x"].tolist() == [1, 2]


def test_a_bug_is_an_internal_error_and_does_not_stop_the_server(toy_server, protocol, monkeypatch, caplog):
    with connect(toy_server, protocol) as client:
        with monkeypatch.context() as broken:
            broken.setattr(LoadedModel, "run", lambda *_: 1 / 0)
            with pytest.raises(ServingError, match="log says why") as caught:
                client.call("serving_default", X)
        assert caught.value.code == "INTERNAL"
        assert "ZeroDivisionError" in caplog.text
        assert client.call("serving_default", X)["y"].tolist() == [3.5, 4]


def test_requests_under_way_finish_when_the_server_stops(toy_dir, gate, protocol):
    server = LocalServer(toy_dir, name="toy")
    server.start()
    with connect(server, protocol, timeout=60, attempts=1) as client, ThreadPoolExecutor() as callers:
        under_way = callers.submit(client.call, "slow", X)
        assert gate.entered.wait(30)
        stopping = callers.submit(server.stop)
        wait_until_it_stops_listening(server.rest_port)
        assert not stopping.done()
        gate.opened.set()
        assert under_way.result(30)["x"].tolist() == [1, 2]
        stopping.result(30)
    for port in (server.grpc_port, server.rest_port):
        with pytest.raises(ConnectionError):
            socket.create_connection(("127.0.0.1", port), timeout=10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_ends_at_a_signal_and_finishes_what_is_under_way(toy_dir, gate, number):
    before = signal.getsignal(number)
    answers = []

    def on_ready(server):
        client = connect(server, "grpc", timeout=60, attempts=1)
        caller = threading.Thread(target=lambda: answers.append(client.call("slow", X)))
        caller.start()
        assert gate.entered.wait(30)
        os.kill(os.getpid(), number)
        opener = threading.Thread(target=lambda: (wait_until_it_stops_listening(server.rest_port), gate.opened.set()))
        opener.start()
        threads.extend([caller, opener])

    threads = []
    LocalServer(toy_dir, name="toy").run(on_ready)
    for thread in threads:
        thread.join(30)
    assert [answer["x"].tolist() for answer in answers] == [[1, 2]]
    assert signal.getsignal(number) is before


def test_a_server_can_be_started_again(toy_dir, protocol):
    server = LocalServer(toy_dir, name="toy")
    for _ in range(2):
        with server, connect(server, protocol) as client:
            assert client.call("serving_default", X)["y"].tolist() == [3.5, 4]
    server.stop()  # of one that has stopped: nothing happens


def test_a_running_server_cannot_be_started(toy_server):
    with pytest.raises(RuntimeError, match="runs already"):
        toy_server.start()


@pytest.mark.parametrize("taken", ["grpc_port", "rest_port"])
def test_a_port_in_use_is_an_error_and_leaves_nothing_listening(toy_dir, toy_server, taken):
    port = getattr(toy_server, taken)
    free = "rest_port" if taken == "grpc_port" else "grpc_port"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        other = listener.getsockname()[1]
    server = LocalServer(toy_dir, name="toy", **{taken: port, free: other})
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}.*{taken}=0"):
        server.start()
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", other), timeout=10)
    with connect(toy_server, "rest") as client:  # and the one who has the port keeps it
        assert client.call("serving_default", X)["y"].tolist() == [3.5, 4]


def test_a_bad_directory_is_an_error_before_anything_listens(tmp_path):
    for path, error in ((tmp_path / "nowhere", OSError), (tmp_path, ValueError)):
        with pytest.raises(error, match=str(path)):
            LocalServer(path).start()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"grpc_port": -1}, r"grpc_port .* got -1"),
        ({"rest_port": 65536}, r"rest_port .* got 65536"),
        ({"grpc_port": 8500, "rest_port": 8500}, "differ"),
        ({"name": ""}, "name"),
        ({"name": "a/b"}, "name"),
    ],
)
def test_arguments_out_of_range(toy_dir, arguments, words):
    with pytest.raises(ValueError, match=words):
        LocalServer(toy_dir, **arguments)


def test_versions_come_and_go_while_callers_query(model_dir, toy_dir, protocol):
    """No request fails, and every answer is one version's or the other's."""
    seen, done = set(), threading.Event()

    def query(client):
        while not done.is_set():
            seen.add(client.call("serving_default", X)["y"].tolist()[0] - 0.5)

    with (
        LocalServer(model_dir, name="toy", poll_seconds=0.02) as server,
        connect(server, protocol) as client,
        ThreadPoolExecutor(4) as callers,
    ):
        futures = [callers.submit(query, client) for _ in range(3)]
        try:
            shutil.copytree(toy_dir / "3", model_dir / ".3.tmp")
            (model_dir / ".3.tmp").rename(model_dir / "3")
            wait_for(lambda: client.call("serving_default", X)["y"].tolist() == [3.5, 4], futures)
            shutil.rmtree(model_dir / "3")
            wait_for(lambda: client.call("serving_default", X)["y"].tolist() == [2.5, 3], futures)
        finally:
            done.set()
        for future in futures:
            future.result(30)
    assert seen == {2, 3}


def wait_for(condition, futures):
    while not condition():
        assert not any(future.done() for future in futures), "a caller has failed"


def test_a_model_directory_that_goes_away_does_not_stop_the_server(model_dir):
    with LocalServer(model_dir, name="toy", poll_seconds=0.01) as server, connect(server, "rest") as client:
        model_dir.rename(model_dir.with_name("away"))
        for _ in range(50):
            assert client.call("serving_default", X)["y"].tolist() == [2.5, 3]
