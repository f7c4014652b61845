import os
import shutil
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import httpx
import numpy as np
import pytest
from support.png import png

from clustr_keras.serving import Client, LocalServer, ServingError, export_model
from clustr_keras.serving.batching import BatchingParameters
from clustr_keras.serving.loaded_model import LoadedModel

X = {"x": np.float32([1, 2])}


@pytest.fixture(params=["grpc", "rest"])
def protocol(request):
    return request.param


def connect(server, protocol, **options):
    return Client(server.grpc_target if protocol == "grpc" else server.rest_url, model="toy", **options)


@pytest.fixture(scope="module")
def served_digits(classifier, tmp_path_factory):
    """A server of an export of the trained classifier."""
    folder = tmp_path_factory.mktemp("digits")
    export_model(classifier, folder)
    with LocalServer(folder) as server:
        yield server


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
        LocalServer(toy_dir, name="toy", batching=BatchingParameters(num_batch_threads=1)) as server,
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
            broken.setattr(LoadedModel, "execute", lambda *_: 1 / 0)
            with pytest.raises(ServingError, match="log says why") as caught:
                client.call("serving_default", X)
        assert caught.value.code == "INTERNAL"
        assert "ZeroDivisionError" in caplog.text
        assert client.call("serving_default", X)["y"].tolist() == [3.5, 4]


def test_a_label_names_a_version(toy_dir, protocol):
    labels = {"stable": 2, "canary": 7}
    with LocalServer(toy_dir, name="toy", labels=labels) as server, httpx.Client(trust_env=False, timeout=30) as http:
        url = f"{server.rest_url}/v1/models/toy"
        answer = http.post(f"{url}/labels/stable:predict", json={"instances": [1.0]})
        assert answer.json() == {"predictions": [2.5]}
        assert http.get(f"{url}/labels/stable").json()["model_version_status"][0]["version"] == "2"
        assert http.get(f"{url}/labels/stable/metadata").json()["model_spec"]["version"] == "2"
        for path, status in (("/labels/canary:predict", 404), ("/labels/other:predict", 400)):
            assert http.post(url + path, json={"instances": [1.0]}).status_code == status
        with connect(server, protocol, label="stable") as client:
            assert client.call("serving_default", X)["y"].tolist() == [2.5, 3]


def test_requests_beyond_the_queue_are_unavailable_and_those_in_it_answered(toy_dir, gate, protocol):
    batching = BatchingParameters(num_batch_threads=1, max_batch_size=2, max_enqueued_batches=1)
    with (
        LocalServer(toy_dir, name="toy", batching=batching) as server,
        connect(server, protocol, timeout=60, attempts=1) as client,
        ThreadPoolExecutor() as callers,
    ):
        busy = callers.submit(client.call, "slow", X)
        assert gate.entered.wait(30)
        # There is room for one: whichever comes second is refused.
        two = {callers.submit(client.call, "serving_default", X) for _ in range(2)}
        (refused,), (waiting,) = wait(two, 30, return_when="FIRST_COMPLETED")
        with pytest.raises(ServingError) as caught:
            refused.result()
        assert caught.value.code == "UNAVAILABLE"
        gate.opened.set()
        assert busy.result(30)["x"].tolist() == [1, 2]
        assert waiting.result(30)["y"].tolist() == [3.5, 4]


def test_a_request_whose_time_passes_in_the_queue_is_429(toy_dir, gate):
    options = {"batching": BatchingParameters(num_batch_threads=1), "rest_timeout_seconds": 0.05}
    with (
        LocalServer(toy_dir, name="toy", **options) as server,
        connect(server, "grpc", timeout=60) as client,
        ThreadPoolExecutor() as callers,
    ):
        busy = callers.submit(client.call, "slow", X)
        assert gate.entered.wait(30)
        answer = httpx.post(f"{server.rest_url}/v1/models/toy:predict", json={"instances": [1.0]}, trust_env=False)
        assert (answer.status_code, list(answer.json())) == (429, ["error"])
        gate.opened.set()
        assert busy.result(30)["x"].tolist() == [1, 2]


def test_requests_beyond_the_memory_are_unavailable(toy_dir, gate, protocol):
    limits = {"max_request_bytes": 2**20, "max_bytes_under_way": 2**10}
    with (
        LocalServer(toy_dir, name="toy", **limits) as server,
        connect(server, protocol, timeout=60, attempts=1) as client,
        ThreadPoolExecutor() as callers,
    ):
        busy = callers.submit(client.call, "slow", X)
        assert gate.entered.wait(30)
        with pytest.raises(ServingError, match="under way") as caught:
            client.call("serving_default", {"x": np.zeros(1000, np.float32)})
        assert caught.value.code == "UNAVAILABLE"
        gate.opened.set()
        busy.result(30)
        assert len(client.call("serving_default", {"x": np.zeros(1000, np.float32)})["y"]) == 1000


def test_a_request_of_200_mb_is_refused_and_the_server_lives(toy_dir, protocol):
    with LocalServer(toy_dir, name="toy") as server, connect(server, protocol, timeout=60) as client:
        with pytest.raises(ServingError) as caught:
            client.call("serving_default", {"x": np.zeros(50 * 2**20, np.float32)})
        assert caught.value.code == "RESOURCE_EXHAUSTED"
        assert client.call("serving_default", X)["y"].tolist() == [3.5, 4]


def test_files_are_classified_over_both_protocols(served_digits, digits, classifier, protocol):
    _, (images, _) = digits
    files = [png(image) for image in images[:5]]
    files.insert(2, files[0][:60])  # truncated
    rounded = np.float32(np.round(images[:5] * 255) / 255)
    certificate = classifier.certify(rounded)
    target = served_digits.grpc_target if protocol == "grpc" else served_digits.rest_url
    with Client(target) as client:
        answer = client.certify_encoded(files)
    assert answer.is_valid.tolist() == [True, True, False, True, True, True]
    assert (answer.class_ids[2], answer.certified_radius[2], answer.class_names[2]) == (-1, 0, "")
    good = np.array([0, 1, 3, 4, 5])
    np.testing.assert_array_equal(answer.class_ids[good], certificate.class_ids)
    np.testing.assert_allclose(answer.certified_radius[good], certificate.certified_radius, atol=1e-5)


def test_callers_who_share_batches_with_broken_images_get_what_they_would_get_alone(
    served_digits, digits, classifier, protocol
):
    _, (images, _) = digits
    certificate = classifier.certify(images[:160])
    target = served_digits.grpc_target if protocol == "grpc" else served_digits.rest_url

    def ask(client, row):
        batch = np.concatenate([images[row : row + 5], np.full_like(images[:1], (np.nan, 2.0, -1.0)[row % 3])])
        return row, client.certify(batch)

    with Client(target) as client, ThreadPoolExecutor(16) as callers:
        for row, answer in callers.map(lambda row: ask(client, row), range(0, 160, 5)):
            assert answer.is_valid.tolist() == [True] * 5 + [False]
            np.testing.assert_array_equal(answer.class_ids[:5], certificate.class_ids[row : row + 5])
            expected = certificate.certified_radius[row : row + 5]
            np.testing.assert_allclose(answer.certified_radius[:5], expected, atol=1e-5)
            assert (answer.class_ids[5], answer.certified_radius[5]) == (-1, 0)


def test_metrics_count_requests_of_both_protocols(toy_dir):
    with LocalServer(toy_dir, name="toy") as server:
        for each in ("grpc", "rest"):
            with connect(server, each) as client:
                client.call("serving_default", X)
                with pytest.raises(ServingError):
                    client.call("nope", X)
        page = httpx.get(f"{server.rest_url}/monitoring/prometheus/metrics", trust_env=False)
    assert page.headers["content-type"].startswith("text/plain")
    lines = page.text.splitlines()
    assert ':tensorflow:serving:request_count{model_name="toy",status="OK"} 2.0' in lines
    assert ':tensorflow:serving:request_count{model_name="toy",status="FAILED_PRECONDITION"} 2.0' in lines
    for labels in ('API="Predict",entrypoint="GRPC"', 'API="predict",entrypoint="REST"'):
        assert f':tensorflow:serving:request_latency_count{{{labels},model_name="toy"}} 1.0' in lines


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


def test_a_server_that_is_stopped_elsewhere_runs_no_longer(toy_dir):
    LocalServer(toy_dir, name="toy").run(on_ready=LocalServer.stop)


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
        ({"model_config_file": "models.config"}, "either the folder of one model or a model_config_file"),
    ],
)
def test_arguments_out_of_range(toy_dir, arguments, words):
    with pytest.raises(ValueError, match=words):
        LocalServer(toy_dir, **arguments)


def test_many_models_from_a_file_of_model_servers(toy_dir, clustr_dir, tmp_path, protocol):
    file = tmp_path / "models.config"
    file.write_text(
        f"""
        model_config_list {{
          config {{ name: "toy" base_path: "{toy_dir}" model_platform: "tensorflow"
                   model_version_policy {{ all {{}} }} version_labels {{ key: "stable" value: 2 }} }}
          config {{ name: "digits" base_path: "{clustr_dir}" model_platform: "tensorflow" }}
          config {{ name: "newest" base_path: "{toy_dir}" model_platform: "tensorflow" }}
        }}
        """
    )
    with LocalServer(model_config_file=file) as server:
        assert server.names == ["toy", "digits", "newest"]
        target = server.grpc_target if protocol == "grpc" else server.rest_url
        for model, options, answer in (
            ("toy", {}, [3.5, 4]),
            ("toy", {"version": 2}, [2.5, 3]),
            ("toy", {"label": "stable"}, [2.5, 3]),
            ("newest", {}, [3.5, 4]),
        ):
            with Client(target, model=model, **options) as client:
                assert client.call("serving_default", X)["y"].tolist() == answer
        with Client(target, model="digits") as client:
            assert client.predict(np.zeros((2, 4, 4, 1), np.float32)).class_ids.shape == (2,)
        for model, options in (("newest", {"version": 2}), ("other", {})):
            with Client(target, model=model, **options) as client, pytest.raises(ServingError, match="NOT_FOUND"):
                client.call("serving_default", X)
        page = httpx.get(f"{server.rest_url}/monitoring/prometheus/metrics", trust_env=False).text
        for name, count in (("toy", 3), ("digits", 1), ("newest", 1)):
            assert f':tensorflow:serving:request_count{{model_name="{name}",status="OK"}} {count}.0' in page
            assert (
                f':tensorflow:serving:runtime_latency_count{{API="Predict",model_name="{name}",runtime="TF1"}}' in page
            )


def test_versions_come_and_go_while_callers_query(model_dir, toy_dir, protocol):
    """No request fails, and every answer is one version's or the other's."""
    seen, done = set(), threading.Event()

    def query(client):
        while not done.is_set():
            seen.add(client.call("serving_default", X)["y"].tolist()[0] - 0.5)

    with (
        LocalServer(model_dir, name="toy", poll_seconds=0.02) as server,
        connect(server, protocol) as client,
        ThreadPoolExecutor(8) as callers,
    ):
        futures = [callers.submit(query, client) for _ in range(8)]
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
