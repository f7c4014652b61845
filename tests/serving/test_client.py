import asyncio
import inspect
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from clustr_keras.serving import AsyncClient, Client, LocalServer, ServingError
from clustr_keras.serving.model_description import SignatureInfo, TensorInfo, VersionStatus


class Waiting:  # AsyncClient in an event loop of its own, with the interface of Client
    def __init__(self, *args, **options):
        self.client = AsyncClient(*args, **options)
        self.runner = asyncio.Runner()

    def __getattr__(self, name):
        value = getattr(self.client, name)
        return (lambda *args, **options: self.runner.run(value(*args, **options))) if callable(value) else value

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
        self.runner.close()


@pytest.fixture(params=[Client, Waiting], ids=["Client", "AsyncClient"])
def make_client(request):
    return request.param


@pytest.fixture(params=["grpc", "rest"])
def protocol(request):
    return request.param


def target_of(server, protocol):
    return server.grpc_target if protocol == "grpc" else server.rest_url


@pytest.fixture
def client(make_client, protocol, clustr_server):
    with make_client(target_of(clustr_server, protocol)) as client:
        yield client


@pytest.fixture
def toy_client(make_client, protocol, toy_server):
    with make_client(target_of(toy_server, protocol), model="toy") as client:
        yield client


def images_of(*means):
    return np.stack([np.full((4, 4, 1), mean, np.float32) for mean in means])


def count_requests(client, monkeypatch):
    requests, send = [], client._transport.send
    monkeypatch.setattr(client._transport, "send", lambda *args: requests.append(args) or send(*args))
    return requests


def test_both_clients_have_the_same_interface():
    for name, method in inspect.getmembers(Client, inspect.isfunction):
        if not name.startswith("_"):
            twin = getattr(AsyncClient, name)
            assert inspect.signature(twin) == inspect.signature(method)
            assert inspect.iscoroutinefunction(twin)


def test_predict(client):
    answer = client.predict(images_of(0.25, 1.0, 1.5))
    np.testing.assert_array_equal(answer.class_ids, np.int64([0, 1, -1]), strict=True)
    assert answer.class_names.tolist() == ["dark", "h\u00e9ll", ""]
    np.testing.assert_array_equal(answer.certified_radius, np.float32([0.25, 0.5, 0]), strict=True)
    np.testing.assert_array_equal(answer.is_valid, [True, True, False], strict=True)
    assert answer.probabilities.dtype == np.float32
    np.testing.assert_allclose(answer.probabilities.sum(1), [1, 1, 0], rtol=1e-6)


def test_both_protocols_give_the_same_bits(clustr_server):
    images = np.random.default_rng(0).uniform(0, 1, (50, 4, 4, 1)).astype(np.float32)
    with Client(clustr_server.grpc_target) as grpc, Client(clustr_server.rest_url) as rest:
        one, other = grpc.certify(images), rest.certify(images)
    for name, array in vars(one).items():
        np.testing.assert_array_equal(getattr(other, name), array, strict=True, err_msg=name)


def test_nan_reaches_the_model(client):
    assert client.predict(images_of(np.nan, 0.25)).is_valid.tolist() == [False, True]


def test_certify(client):
    answer = client.certify(images_of(0.25))
    np.testing.assert_array_equal(answer.logits, np.float32([[0.25, -0.25]]), strict=True)
    np.testing.assert_array_equal(answer.runner_up_class_ids, np.int64([1]), strict=True)
    assert answer.nearest_cluster.tolist() == [0]
    np.testing.assert_array_equal(answer.lipschitz_bound, np.float32([1]), strict=True)
    assert answer.class_names.tolist() == ["dark"]


def test_certify_at_takes_one_radius_or_one_each(client):
    images = images_of(0.25, 1.0)
    assert client.certify_at(images, 0.3).is_certified.tolist() == [False, True]
    assert client.certify_at(images, [0.2, 0.6]).is_certified.tolist() == [True, False]
    with pytest.raises(ValueError, match=r"radius .* shape \(2,\); got \(3,\)"):
        client.certify_at(images, [1, 2, 3])


def test_embed(client):
    answer = client.embed(images_of(0.25, 1.0))
    np.testing.assert_array_equal(answer.embeddings, np.float32([[0.25], [1.0]]), strict=True)
    assert answer.is_valid.tolist() == [True, True]


def test_a_model_without_a_certificate_has_no_radius(client):
    answer = client.predict(images_of(0.25), signature="uncertified")
    assert answer.certified_radius is None
    assert answer.class_ids.tolist() == [0]


def test_a_signature_of_another_kind_is_named(client):
    with pytest.raises(ServingError, match="Prediction needs") as caught:
        client.predict(images_of(0.25), signature="embed")
    assert caught.value.code == "FAILED_PRECONDITION"


def test_call_keeps_dtypes_text_and_bytes(toy_client):
    outputs = toy_client.call(
        "three_inputs", {"tag": ["é", "b"], "signal": np.ones((2, 3), np.float32), "sensor": np.ones((2, 2, 2), int)}
    )
    assert outputs["tag"].tolist() == ["é", "b"]
    assert {name: array.dtype.str for name, array in outputs.items() if name != "tag"} == {
        "total": "<f4",
        "corner": "<i8",
        "is_big": "|b1",
    }
    outputs = toy_client.call("binary", {"data": np.array([b"a\xff\x00"], dtype=object)})
    assert outputs["reversed_bytes"].tolist() == [b"\x00\xffa"]
    outputs = toy_client.call("binary", {"data": ["ab"]})  # bytes by name, though it could be text
    assert outputs["reversed_bytes"].tolist() == [b"ba"]


def test_call_keeps_scalars_and_special_values(toy_client):
    outputs = toy_client.call("mean", {"x": np.float32([[1, 3]])})
    np.testing.assert_array_equal(outputs["mean"], np.float32(2), strict=True)
    x = np.float32([np.nan, np.inf, -np.inf, 1e-45, 0.1])
    np.testing.assert_array_equal(toy_client.call("mean", {"x": x})["x"], x, strict=True)


def test_the_version_is_chosen_by_number(make_client, toy_server):
    for target in (toy_server.grpc_target, f"grpc://{toy_server.grpc_target}", toy_server.rest_url):
        for version, offset in ((None, 3), (2, 2)):
            with make_client(target, model="toy", version=version) as client:
                assert client.call("serving_default", {"x": np.float32([0])})["y"].tolist() == [offset]


@pytest.mark.parametrize("limit", [{"max_rows": 3}, {"max_bytes": 200}, {"max_bytes": 1}])
def test_large_batches_are_split_and_joined_in_order(make_client, protocol, clustr_server, monkeypatch, limit):
    images = images_of(*np.linspace(0, 1, 8))
    target = target_of(clustr_server, protocol)
    with make_client(target) as whole, make_client(target, **limit) as parts:
        requests = count_requests(parts, monkeypatch)
        expected, got = whole.predict(images), parts.predict(images)
        assert len(requests) > 2
        assert parts.certify_at(images, np.linspace(0, 1, 8)).is_certified.tolist() == (
            whole.certify_at(images, np.linspace(0, 1, 8)).is_certified.tolist()
        )
    np.testing.assert_allclose(got.certified_radius, expected.certified_radius, rtol=0, atol=1e-6)
    assert got.class_names.tolist() == expected.class_names.tolist()


def test_threads_that_share_a_client_get_their_own_answers(protocol, toy_server):
    toy_client = Client(target_of(toy_server, protocol), model="toy")

    def query(i):
        x = np.arange(i, i + 1 + i % 5, dtype=np.float32)
        if i % 7 == 0:
            with pytest.raises(ServingError, match="INVALID_ARGUMENT"):
                toy_client.call("serving_default", {"x": x[None]})
        np.testing.assert_array_equal(toy_client.call("serving_default", {"x": x})["y"], x / 2 + 3)

    with toy_client, ThreadPoolExecutor(8) as callers:
        list(callers.map(query, range(80)))


@pytest.mark.parametrize(
    ("signature", "shape", "words"),
    [("serving_default", (1, 5, 5, 1), "expected shape"), ("certify", (2, 4, 4, 3), "expected shape")],
)
def test_images_of_a_wrong_size_are_refused(client, signature, shape, words):
    with pytest.raises(ServingError, match=words) as caught:
        client.predict(np.zeros(shape, np.float32), signature)
    assert caught.value.code == "INVALID_ARGUMENT"


def test_errors_have_the_servers_code_and_words(clustr_server):
    for target, unknown_signature in (
        (clustr_server.grpc_target, "FAILED_PRECONDITION"),
        (clustr_server.rest_url, "INVALID_ARGUMENT"),  # HTTP has one status for both
    ):
        with Client(target, model="other") as client:
            with pytest.raises(ServingError, match=r'"other".*"clustr"') as caught:
                client.predict(images_of(0.25))
            assert caught.value.code == "NOT_FOUND"
        with Client(target) as client:
            with pytest.raises(ServingError, match='"nope"') as caught:
                client.predict(images_of(0.25), "nope")
            assert caught.value.code == unknown_signature


def test_a_request_above_the_servers_limit_is_not_retried(toy_client, monkeypatch):
    requests = count_requests(toy_client, monkeypatch)
    with pytest.raises(ServingError) as caught:
        toy_client.call("serving_default", {"x": np.zeros(2**20, np.float32)})
    assert caught.value.code == "RESOURCE_EXHAUSTED"
    assert len(requests) == 1


def test_a_server_that_is_not_there_is_unavailable(make_client, protocol, clustr_dir, monkeypatch):
    with LocalServer(clustr_dir) as server:
        target = target_of(server, protocol)
    with make_client(target, attempts=2) as client:
        requests = count_requests(client, monkeypatch)
        with pytest.raises(ServingError) as caught:
            client.predict(images_of(0.25))
    assert caught.value.code == "UNAVAILABLE"
    assert len(requests) == 2


@pytest.mark.parametrize(("code", "calls"), [("UNAVAILABLE", 3), ("RESOURCE_EXHAUSTED", 1), ("DEADLINE_EXCEEDED", 1)])
def test_only_unavailable_is_retried(client, monkeypatch, code, calls):
    send, failures = client._transport.send, []

    def fail_twice(*args):
        if len(failures) == 2:
            return send(*args)
        failures.append(args)
        raise ServingError(code, "not now")

    monkeypatch.setattr(client._transport, "send", fail_twice)
    if calls == 3:
        assert client.predict(images_of(0.25)).class_ids.tolist() == [0]
    else:
        with pytest.raises(ServingError, match=code):
            client.predict(images_of(0.25))
        assert len(failures) == 1


def test_a_client_outlives_a_restart_of_the_server(make_client, protocol, clustr_dir):
    with LocalServer(clustr_dir) as server:
        client = make_client(target_of(server, protocol))
        client.predict(images_of(0.25))
    with LocalServer(clustr_dir, grpc_port=server.grpc_port, rest_port=server.rest_port), client:
        assert client.predict(images_of(0.25)).class_ids.tolist() == [0]


def test_signatures_say_what_they_take_and_give(toy_client):
    signatures = toy_client.signatures()
    assert set(signatures) == {"serving_default", "three_inputs", "binary", "mean", "slow", "scaled"}
    assert signatures["scaled"] == SignatureInfo(
        inputs={"x": TensorInfo("DT_FLOAT", (None,)), "scale": TensorInfo("DT_FLOAT", ())},
        outputs={"y": TensorInfo("DT_FLOAT", (None,))},
    )
    assert signatures["three_inputs"].inputs["sensor"] == TensorInfo("DT_INT64", (None, 2, 2))
    assert signatures["mean"].inputs["x"].shape is None


def test_versions_are_those_of_the_server_or_the_one_that_is_asked_for(make_client, protocol, toy_server):
    target = target_of(toy_server, protocol)
    with make_client(target, model="toy") as client:
        assert client.versions() == [VersionStatus(number, "AVAILABLE", "OK", "") for number in (3, 2)]
    with make_client(target, model="toy", version=2) as client:
        assert [status.version for status in client.versions()] == [2]
    with make_client(target, model="other") as client, pytest.raises(ServingError, match="NOT_FOUND"):
        client.versions()


@pytest.mark.parametrize("target", ["", "localhost", "localhost:x", "grpc://localhost", "ftp://localhost:1", "http://"])
def test_a_target_of_no_known_form_is_an_error(target):
    with pytest.raises(ValueError, match=r'"host:port".*got ' + repr(target)):
        Client(target)


@pytest.mark.parametrize(
    "options",
    [
        *({"timeout": value} for value in (0, -1, np.nan, np.inf)),
        *({name: value} for name in ("max_rows", "max_bytes", "attempts") for value in (0, np.nan)),
        {"version": "stable"},
        {"version": -1},
        {"label": ""},
        {"label": 3},
        {"version": 2, "label": "stable"},
    ],
    ids=str,
)
def test_options_out_of_range(options):
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match=next(iter(options))):
            kind("localhost:1", **options)
    with pytest.raises(ValueError, match="max_in_flight must be at least 1; got 0"):
        AsyncClient("localhost:1", max_in_flight=0)


def test_the_timeout_of_a_call_is_checked_too():
    with Client("localhost:1") as client, pytest.raises(ValueError, match="timeout must be greater than 0"):
        client.predict(images_of(0.5), timeout=0)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((4, 4, 1), np.float32), r"images\[None\]"),
        (np.zeros((0, 4, 4, 1), np.float32), "at least one"),
        (np.zeros((1, 4, 4, 1), np.uint8), r"255\.0"),
    ],
)
def test_what_is_no_batch_of_images_is_an_error_at_once(images, words):
    with Client("localhost:1") as client, pytest.raises(ValueError, match=words):
        client.predict(images)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (b"\x89PNG", r"list of bytes.*\[file\]"),
        ("cat.png", "list of bytes"),
        ([], "at least one"),
        ([b"\x89PNG", "cat.png"], "got str at index 1.*read_bytes"),
        (np.zeros((1, 4), np.uint8), "got ndarray at index 0"),
    ],
)
def test_what_is_no_list_of_files_is_an_error_at_once(files, words):
    with Client("localhost:1") as client, pytest.raises(ValueError, match=words):
        client.certify_encoded(files)


def test_arrays_of_python_objects_are_an_error_at_once():
    with Client("localhost:1") as client, pytest.raises(ValueError, match="other Python objects"):
        client.call("serving_default", {"x": [{}]})


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout


HEAVY = "print([name for name in ('tensorflow', 'keras', 'tensorflow_serving') if name in sys.modules])"


def test_the_rest_clients_import_neither_tensorflow_nor_keras(clustr_server):
    out = run_python(f"""
import asyncio, sys
import numpy as np
from clustr_keras.serving import AsyncClient, Client, run_load_test
url, images = {clustr_server.rest_url!r}, np.full((1, 4, 4, 1), 0.25, np.float32)
with Client(url) as client:
    print(client.predict(images).class_names.tolist(), list(client.signatures())[:0], client.versions()[0].version)
async def main():
    async with AsyncClient(url) as client:
        print((await client.certify(images)).class_names.tolist())
asyncio.run(main())
print(run_load_test(url, images, requests=3, concurrency=1).errors)
{HEAVY}
""")
    assert out.splitlines() == ["['dark'] [] 1", "['dark']", "{}", "[]"]


def test_the_grpc_clients_import_tensorflow_with_their_first_request():
    out = run_python(
        f"import sys; from clustr_keras.serving import AsyncClient, Client\n"
        f"for kind in (Client, AsyncClient): kind('localhost:1')\n{HEAVY}"
    )
    assert out == "[]\n"
