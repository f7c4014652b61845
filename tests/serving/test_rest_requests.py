import json

import httpx
import numpy as np
import pytest

from clustr_keras.serving.endpoint import Endpoint, ModelChoice
from clustr_keras.serving.errors import ServingError
from clustr_keras.serving.rest_requests import RestRequests, read_json


def requests_to(target="http://localhost:1", **choice):
    return RestRequests(Endpoint.parse(target), ModelChoice(**{"name": "clustr"} | choice))


def metadata(**dtypes):
    outputs = {name: {"dtype": dtype, "tensor_shape": {}} for name, dtype in dtypes.items()}
    signatures = {"serving_default": {"inputs": {}, "outputs": outputs}}
    return {"metadata": {"signature_def": {"signature_def": signatures}}}


def converse(requests, request, *answers):
    """The urls that were asked, and the result."""
    exchange, urls, answer = requests.exchange(request), [], None
    for following in (*answers, None):
        try:
            urls.append(exchange.send(answer).url.rpartition("/")[2])
        except StopIteration as end:
            return urls, end.value
        answer = following
    raise AssertionError("more questions than answers")


def test_the_dtypes_are_asked_once():
    requests = requests_to()
    request = requests.predict("serving_default", {"x": np.zeros(1)})
    answer = {"outputs": {"a": [1], "b": [True]}}
    urls, outputs = converse(requests, request, metadata(a="DT_HALF", b="DT_BOOL"), answer)
    assert urls == ["metadata", "clustr:predict"]
    np.testing.assert_array_equal(outputs["a"], np.float16([1]), strict=True)
    assert converse(requests, request, answer)[0] == ["clustr:predict"]


def test_other_outputs_are_asked_about_and_read():
    requests = requests_to()
    request = requests.predict("", {"x": np.zeros(1)})
    converse(requests, request, metadata(a="DT_HALF", b="DT_BOOL"), {"outputs": {"a": [1], "b": [True]}})
    answer = {"outputs": {"a": [1], "b": [True], "c": ["x"]}}
    fresh = metadata(a="DT_HALF", b="DT_BOOL", c="DT_STRING")
    urls, outputs = converse(requests, request, answer, fresh)
    assert urls == ["clustr:predict", "metadata"]
    assert outputs["c"].tolist() == [b"x"]


@pytest.mark.parametrize("answer", [{"predictions": [1]}, {"outputs": [1]}, {"outputs": {"a": [1]}}, {}])
def test_an_answer_that_contradicts_the_metadata_is_an_error(answer):
    requests = requests_to()
    request = requests.predict("serving_default", {"x": np.zeros(1)})
    known = metadata(a="DT_HALF", b="DT_BOOL")
    with pytest.raises(ServingError, match=r"not answer as its metadata says.*\['a', 'b'\]") as caught:
        converse(requests, request, known, answer, known)
    assert caught.value.code == "UNKNOWN"


@pytest.mark.parametrize(
    ("choice", "path"),
    [
        ({}, "/v1/models/clustr:predict"),
        ({"version": 12}, "/v1/models/clustr/versions/12:predict"),
        ({"label": "a/b:c"}, "/v1/models/clustr/labels/a%2Fb%3Ac:predict"),
        ({"name": "m/n"}, "/v1/models/m%2Fn:predict"),
    ],
)
def test_paths(choice, path):
    for base in ("http://localhost:1", "http://localhost:1/prefix/"):
        request = requests_to(base, **choice).predict("s", {"x": np.zeros(1)})
        assert request.url == base.rstrip("/") + path


def test_row_bytes_are_about_what_the_rows_take():
    inputs = {
        "images": np.random.default_rng(0).uniform(0, 1, (20, 8, 8, 3)).astype(np.float32),
        "image_bytes": np.array([bytes(range(10 * i)) for i in range(20)], dtype=object),
    }
    for name, array in inputs.items():
        body = requests_to().predict("s", {name: array}).body
        assert 0.8 * len(body) < RestRequests.row_bytes(array).sum() < 1.2 * len(body)


def test_bytes_and_text_as_json():
    body = requests_to().predict("s", {"x": np.array([b"\xff", "é"], dtype=object)}).body
    assert json.loads(body) == {"signature_name": "s", "inputs": {"x": [{"b64": "/w=="}, "é"]}}


@pytest.mark.parametrize(
    ("status", "content", "code", "words"),
    [
        (502, b"<html>Bad Gateway</html>", "UNAVAILABLE", "HTTP 502 .*Bad Gateway"),
        (200, b"<html>Welcome</html>", "UNKNOWN", "without a JSON object: <html>Welcome"),
        (200, b"[1]", "UNKNOWN", "without a JSON object"),
        (200, b"[" * 100_000, "UNKNOWN", "without a JSON object"),
        (404, b'{"error": "no such model"}', "NOT_FOUND", "^NOT_FOUND: no such model$"),
        (403, b'{"detail": "go away"}', "PERMISSION_DENIED", "go away"),
    ],
)
def test_what_is_no_answer_is_an_error(status, content, code, words):
    with pytest.raises(ServingError, match=words) as caught:
        read_json(requests_to().versions(), httpx.Response(status, content=content))
    assert caught.value.code == code
