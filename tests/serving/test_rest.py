import contextlib
import json
import math
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from clustr_keras.serving import LocalServer
from clustr_keras.serving.batching import BatchingParameters


@pytest.fixture(scope="module")
def http(toy_server):
    with httpx.Client(base_url=f"{toy_server.rest_url}/v1/models", trust_env=False, timeout=30) as http:
        yield http


def predict(http, document, path="toy:predict"):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    response = http.post(f"/{path}", content=body)
    assert response.headers["content-type"] == "application/json"
    return response.status_code, json.loads(response.content)


THREE_ROWS = {
    "signature_name": "three_inputs",
    "instances": [
        {"tag": "foo", "signal": [1, 2, 3], "sensor": [[1, 2], [3, 4]]},
        {"tag": "bar", "signal": [3, 4, 1.5], "sensor": [[4, 5], [6, 8]]},
    ],
}
THREE_COLUMNS = {
    "signature_name": "three_inputs",
    "inputs": {
        "tag": ["foo", {"b64": "YmFy"}],
        "signal": [[1, 2, 3], [3, 4, 1.5]],
        "sensor": [[[1, 2], [3, 4]], [[4, 5], [6, 8]]],
    },
}


def test_a_list_of_scalars(http):
    assert predict(http, {"instances": [1.0, 2.0, 5.0]}) == (200, {"predictions": [3.5, 4.0, 5.5]})


def test_a_version_is_chosen_by_its_number(http):
    answer = predict(http, {"instances": [1.0, 2.0, 5.0]}, "toy/versions/2:predict")
    assert answer == (200, {"predictions": [2.5, 3.0, 4.5]})


def test_columns_of_a_single_tensor(http):
    assert predict(http, {"inputs": [1.0, 2.0]}) == (200, {"outputs": [3.5, 4.0]})
    assert predict(http, {"inputs": {"x": [1.0, 2.0]}}) == (200, {"outputs": [3.5, 4.0]})


def test_rows_of_several_tensors(http):
    assert predict(http, THREE_ROWS) == (
        200,
        {
            "predictions": [
                {"tag": "foo", "total": 6.0, "corner": 1, "is_big": False},
                {"tag": "bar", "total": 8.5, "corner": 4, "is_big": True},
            ]
        },
    )


def test_columns_of_several_tensors(http):
    assert predict(http, THREE_COLUMNS) == (
        200,
        {"outputs": {"tag": ["foo", "bar"], "total": [6.0, 8.5], "corner": [1, 4], "is_big": [False, True]}},
    )


def test_binary_values_go_both_ways_in_base64(http):
    answer = predict(http, {"signature_name": "binary", "instances": [{"b64": "/wA="}, "ab"]})
    assert answer == (200, {"predictions": [{"b64": "AP8="}, {"b64": "YmE="}]})


def test_nan_and_infinity_go_both_ways(http):
    status, answer = predict(http, b'{"instances": [NaN, Infinity, -Infinity]}')
    assert status == 200
    assert math.isnan(answer["predictions"][0])
    assert answer["predictions"][1:] == [math.inf, -math.inf]


def test_columns_may_hold_what_rows_may_not(http):
    document = {"signature_name": "mean", "inputs": [[1.0, 3.0]]}
    assert predict(http, document) == (200, {"outputs": {"mean": 2.0, "x": [[1.0, 3.0]]}})
    status, answer = predict(http, {"signature_name": "mean", "instances": [1.0, 3.0]})
    assert status == 400
    assert "first axes" in answer["error"]


def without(document, name):
    return document | {"inputs": {key: value for key, value in document["inputs"].items() if key != name}}


def with_extra(document):
    return document | {"inputs": document["inputs"] | {"extra": 1}}


def test_an_extra_column_is_ignored(http):
    assert predict(http, with_extra(THREE_COLUMNS)) == predict(http, THREE_COLUMNS)


@pytest.mark.parametrize(
    ("document", "path", "status", "words"),
    [
        ({"instances": [1]}, "other:predict", 404, "other"),
        ({"instances": [1]}, "toy/versions/7:predict", 404, "version 7"),
        ({"instances": [1]}, "toy/labels/stable:predict", 400, "stable"),
        ({"instances": [1], "signature_name": "nope"}, "toy:predict", 400, "nope"),
        (without(THREE_COLUMNS, "tag"), "toy:predict", 400, "tag"),
        ({"instances": [{"x": 1, "z": 1}]}, "toy:predict", 400, "z"),
        ({"instances": ["1"]}, "toy:predict", 400, "'1'"),
        ({"instances": [[1.0]]}, "toy:predict", 400, "shape"),
        ({"inputs": 1.0}, "toy:predict", 400, "shape"),
        ({"instances": [1], "inputs": [1]}, "toy:predict", 400, "both"),
        (b"not json", "toy:predict", 400, "JSON"),
        (b'{"instances": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "toy:predict", 400, "deep"),
        (b'{"a":' * 10_000, "toy:predict", 400, "deep"),
        (b"", "toy:predict", 400, "JSON"),
        ({"examples": [{"x": 1}]}, "toy:classify", 400, "classify"),
        ({"examples": [{"x": 1}]}, "toy:regress", 400, "regress"),
        ({"instances": [1]}, "toy:explain", 400, "malformed"),
        ({"instances": [1]}, "toy", 400, "malformed"),
        ({"instances": [1]}, "toy/versions/x:predict", 400, "malformed"),
        ({"instances": [1]}, "toy/versions/99999999999999999999:predict", 400, "malformed"),
    ],
)
def test_errors_have_their_statuses_and_the_server_lives(http, document, path, status, words):
    got, answer = predict(http, document, path)
    assert (got, list(answer)) == (status, ["error"])
    assert words in answer["error"]
    assert predict(http, {"instances": [1.0]}) == (200, {"predictions": [3.5]})


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_malformed_requests(http, method):
    response = http.request(method, "/toy:predict")
    assert response.status_code == 400
    assert "malformed" in response.json()["error"]


def chunks(total):
    for _ in range(total // 2**16):
        yield b" " * 2**16


@pytest.mark.parametrize("body", [b" " * 2**22, chunks(2**22)], ids=["declared", "chunked"])
def test_a_body_above_the_limit_is_refused(http, body):
    response = http.post("/toy:predict", content=body)
    assert response.status_code == 413
    assert "1048576" in response.json()["error"]
    assert predict(http, {"instances": [1.0]}) == (200, {"predictions": [3.5]})


def test_a_body_just_below_the_limit_is_read(http):
    body = b'{"instances": [1.0]}'
    assert predict(http, body + b" " * (2**20 - len(body))) == (200, {"predictions": [3.5]})


def test_status_lists_versions_newest_first(http):
    ok = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert http.get("/toy").json() == {"model_version_status": [{"version": "3"} | ok, {"version": "2"} | ok]}
    assert http.get("/toy/versions/2").json() == {"model_version_status": [{"version": "2"} | ok]}


def test_metadata_has_the_form_of_tensorflow_serving(http):
    answer = http.get("/toy/versions/2/metadata").json()
    assert answer["model_spec"] == {"name": "toy", "signature_name": "", "version": "2"}
    signature = answer["metadata"]["signature_def"]["signature_def"]["three_inputs"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert signature["inputs"]["signal"]["dtype"] == "DT_FLOAT"
    assert [axis["size"] for axis in signature["inputs"]["signal"]["tensor_shape"]["dim"]] == ["-1", "3"]
    assert http.get("/toy/metadata").json()["model_spec"]["version"] == "3"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("other", 404),
        ("toy/versions/7", 404),
        ("toy/versions/7/metadata", 404),
        ("other/metadata", 404),
        ("toy/labels/stable", 400),
        ("", 400),
        ("toy/nope", 400),
    ],
)
def test_errors_of_status_and_metadata(http, path, status):
    response = http.get(f"/{path}")
    assert response.status_code == status
    assert list(response.json()) == ["error"]


def test_a_body_that_does_not_come_holds_up_nobody(toy_dir):
    with LocalServer(toy_dir, name="toy", rest_timeout_seconds=0.2) as server:
        head = b"POST /v1/models/toy:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 60000000\r\n\r\n{"
        slow = [socket.create_connection(("127.0.0.1", server.rest_port), timeout=30) for _ in range(20)]
        for connection in slow:
            connection.sendall(head)
        url = f"{server.rest_url}/v1/models/toy:predict"
        assert httpx.post(url, json={"instances": [1.0]}, trust_env=False).status_code == 200
        for connection in slow:
            assert connection.recv(100).startswith(b"HTTP/1.1 408")
            connection.close()


def test_endless_headers_are_refused(toy_server):
    with socket.create_connection(("127.0.0.1", toy_server.rest_port), timeout=30) as connection:
        connection.sendall(b"GET /v1/models/toy HTTP/1.1\r\nHost: x\r\nX: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                connection.sendall(b"x" * 2**16)
        with contextlib.suppress(ConnectionError):
            assert connection.recv(100)[:12] in (b"HTTP/1.1 400", b"")


def test_a_compressed_body_is_refused(http):
    response = http.post("/toy:predict", content=b"x", headers={"Content-Encoding": "gzip"})
    assert response.status_code == 400
    assert "compressed" in response.json()["error"]


def test_a_caller_who_leaves_does_not_stay_in_the_queue(toy_dir, gate):
    with (
        LocalServer(toy_dir, name="toy", batching=BatchingParameters(num_batch_threads=1)) as server,
        httpx.Client(base_url=f"{server.rest_url}/v1/models", trust_env=False, timeout=30) as http,
        ThreadPoolExecutor() as callers,
    ):
        busy = callers.submit(http.post, "/toy:predict", json={"signature_name": "slow", "instances": [1.0]})
        assert gate.entered.wait(30)
        with pytest.raises(httpx.ReadTimeout):
            http.post("/toy:predict", json={"instances": [1.0]}, timeout=0.5)
        counted = 'request_count{model_name="toy",status="CANCELLED"} 1.0'
        while counted not in httpx.get(f"{server.rest_url}/monitoring/prometheus/metrics", trust_env=False).text:
            pass
        gate.opened.set()
        assert busy.result(30).json() == {"predictions": [1.0]}


def test_a_name_that_has_to_be_quoted_is_served(toy_dir):
    with LocalServer(toy_dir, name="a?b c") as server:
        answer = httpx.get(f"{server.rest_url}/v1/models/a%3Fb%20c", trust_env=False)
        assert answer.status_code == 200
