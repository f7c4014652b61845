import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from clustr_keras.serving import Client, LocalServer, ServingError


def images_of(*means):
    return np.stack([np.full((4, 4, 1), mean, np.float32) for mean in means])


def count_requests(client, monkeypatch):
    requests, send = [], client._transport.send
    monkeypatch.setattr(client._transport, "send", lambda *args: requests.append(args) or send(*args))
    return requests


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


def test_the_version_is_chosen_by_number(toy_server):
    for target in (toy_server.grpc_target, f"grpc://{toy_server.grpc_target}", toy_server.rest_url):
        for version, offset in ((None, 3), (2, 2)):
            with Client(target, model="toy", version=version) as client:
                assert client.call("serving_default", {"x": np.float32([0])})["y"].tolist() == [offset]


@pytest.mark.parametrize("limit", [{"max_rows": 3}, {"max_bytes": 200}, {"max_bytes": 1}])
@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_large_batches_are_split_and_joined_in_order(clustr_server, monkeypatch, limit, protocol):
    images = images_of(*np.linspace(0, 1, 8))
    target = clustr_server.grpc_target if protocol == "grpc" else clustr_server.rest_url
    with Client(target) as whole, Client(target, **limit) as parts:
        requests = count_requests(parts, monkeypatch)
        expected, got = whole.predict(images), parts.predict(images)
        assert len(requests) > 2
        assert parts.certify_at(images, np.linspace(0, 1, 8)).is_certified.tolist() == (
            whole.certify_at(images, np.linspace(0, 1, 8)).is_certified.tolist()
        )
    np.testing.assert_allclose(got.certified_radius, expected.certified_radius, rtol=0, atol=1e-6)
    assert got.class_names.tolist() == expected.class_names.tolist()


def test_callers_that_share_a_client_get_their_own_answers(toy_client):
    def query(i):
        x = np.arange(i, i + 1 + i % 5, dtype=np.float32)
        if i % 7 == 0:
            with pytest.raises(ServingError, match="INVALID_ARGUMENT"):
                toy_client.call("serving_default", {"x": x[None]})
        np.testing.assert_array_equal(toy_client.call("serving_default", {"x": x})["y"], x / 2 + 3)

    with ThreadPoolExecutor(8) as callers:
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


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_server_that_is_not_there_is_unavailable(scheme, clustr_dir, monkeypatch):
    with LocalServer(clustr_dir) as server:
        port = server.rest_port
    with Client(f"{scheme}://127.0.0.1:{port}", attempts=2) as client:
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


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_client_outlives_a_restart_of_the_server(clustr_dir, protocol):
    with LocalServer(clustr_dir) as server:
        client = Client(server.grpc_target if protocol == "grpc" else server.rest_url)
        client.predict(images_of(0.25))
    with LocalServer(clustr_dir, grpc_port=server.grpc_port, rest_port=server.rest_port), client:
        assert client.predict(images_of(0.25)).class_ids.tolist() == [0]


def test_an_answer_that_takes_too_long_is_deadline_exceeded(toy_server, gate):
    for target in (toy_server.grpc_target, toy_server.rest_url):
        with Client(target, model="toy", timeout=0.2) as client, pytest.raises(ServingError) as caught:
            client.call("slow", {"x": np.float32([1])})
        assert caught.value.code == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize("target", ["", "localhost", "localhost:x", "grpc://localhost", "ftp://localhost:1", "http://"])
def test_a_target_of_no_known_form_is_an_error(target):
    with pytest.raises(ValueError, match=r'"host:port".*got ' + repr(target)):
        Client(target)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"max_rows": 0}, {"max_bytes": -1}, {"attempts": 0}])
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Client("localhost:1", **options)


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


def test_arrays_of_python_objects_are_an_error_at_once():
    with Client("localhost:1") as client, pytest.raises(ValueError, match="other Python objects"):
        client.call("serving_default", {"x": [{}]})


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout


HEAVY = "print([name for name in ('tensorflow', 'keras', 'tensorflow_serving') if name in sys.modules])"


def test_the_rest_client_imports_neither_tensorflow_nor_keras(clustr_server):
    out = run_python(f"""
import sys
import numpy as np
from clustr_keras.serving import Client
with Client({clustr_server.rest_url!r}) as client:
    print(client.predict(np.full((1, 4, 4, 1), 0.25, np.float32)).class_names.tolist())
{HEAVY}
""")
    assert out.splitlines() == ["['dark']", "[]"]


def test_the_grpc_client_imports_tensorflow_with_its_first_request():
    assert run_python(f"import sys; from clustr_keras.serving import Client; Client('localhost:1'); {HEAVY}") == "[]\n"
