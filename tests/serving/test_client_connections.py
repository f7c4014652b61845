# What travels besides the tensors, and how: seen by small servers of both protocols that write down each request.

import asyncio
import base64
import concurrent.futures
import contextlib
import json
import socket
import ssl
import threading
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
import trustme
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from clustr_keras.serving import AsyncClient, Client, ServingError

OUTPUTS = {
    "class_ids": [0],
    "class_names": ["dark"],
    "probabilities": [[1.0]],
    "certified_radius": [0.5],
    "is_valid": [True],
    "logits": [[0.5]],
    "runner_up_class_ids": [0],
    "nearest_cluster": [0],
    "lipschitz_bound": [1.0],
}
DTYPES = {
    int: (np.int64, "DT_INT64"),
    str: (object, "DT_STRING"),
    float: (np.float32, "DT_FLOAT"),
    bool: (bool, "DT_BOOL"),
}


def dtypes_of(value):
    while isinstance(value, list):
        value = value[0]
    return DTYPES[type(value)]


class Recorder:
    def __init__(self):
        self.requests = []
        self.refusals = []  # of the next predictions
        self.outputs = dict(OUTPUTS)
        self.gate = threading.Event()  # holds answers while it is clear
        self.gate.set()

    def predictions(self):
        return [request for request in self.requests if hasattr(request, "rows")]

    def answer(self, **request):
        self.requests.append(SimpleNamespace(**request))
        assert self.gate.wait(30)
        if self.refusals:
            raise self.refusals.pop(0)
        return {name: value * request["rows"] for name, value in self.outputs.items()}


class GrpcRecorder(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, recorder):
        self.recorder = recorder

    def Predict(self, request, context):  # noqa: N802
        import tensorflow as tf

        spec = request.model_spec
        tensors = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
        try:
            outputs = self.recorder.answer(
                headers=dict(context.invocation_metadata()),
                peer=context.peer(),
                label=spec.version_label or None,
                version=spec.version.value if spec.HasField("version") else None,
                signature=spec.signature_name,
                rows=len(next(iter(tensors.values()))),
                files=tensors.get("image_bytes", np.array([])).tolist(),
            )
        except ServingError as refusal:
            context.abort(grpc.StatusCode[refusal.code], refusal.message)
        response = predict_pb2.PredictResponse()
        for name, value in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(np.array(value, dtype=dtypes_of(value)[0])))
        return response


@contextlib.contextmanager
def grpc_server(recorder, certificates=None):
    pool = concurrent.futures.ThreadPoolExecutor(8)
    server = grpc.server(pool)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(GrpcRecorder(recorder), server)
    if certificates is None:
        target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    else:
        credentials = grpc.ssl_server_credentials(
            [(certificates.key.read_bytes(), certificates.chain.read_bytes())],
            certificates.ca.read_bytes(),
            require_client_auth=certificates.asks_client,
        )
        target = f"grpcs://localhost:{server.add_secure_port('127.0.0.1:0', credentials)}"
    server.start()
    try:
        yield target
    finally:
        recorder.gate.set()
        server.stop(None).wait()
        pool.shutdown()


def rest_app(recorder):
    def metadata(request):
        recorder.requests.append(SimpleNamespace(headers=dict(request.headers), path=request.url.path))
        outputs = {
            name: {"dtype": dtypes_of(value)[1], "tensor_shape": {"dim": [], "unknown_rank": True}, "name": name}
            for name, value in recorder.outputs.items()
        }
        names = ("serving_default", "certify", "certify_encoded")
        signatures = {name: {"inputs": {}, "outputs": outputs} for name in names}
        return JSONResponse({"metadata": {"signature_def": {"signature_def": signatures}}})

    async def predict(request):
        body = json.loads(await request.body())
        files = [base64.b64decode(file["b64"]) for file in body["inputs"].get("image_bytes", [])]
        try:
            outputs = await asyncio.to_thread(
                recorder.answer,
                headers=dict(request.headers),
                peer=request.client.port,
                label=request.path_params.get("label"),
                version=request.path_params.get("version"),
                signature=body["signature_name"],
                rows=len(next(iter(body["inputs"].values()))),
                files=files,
            )
        except ServingError as refusal:
            return JSONResponse({"error": refusal.message}, refusal.http_status)
        return JSONResponse({"outputs": outputs})

    routes = []
    for choice in ("", "/versions/{version:int}", "/labels/{label}"):
        routes.append(Route(f"/v1/models/clustr{choice}/metadata", metadata))
        routes.append(Route(f"/v1/models/clustr{choice}:predict", predict, methods=["POST"]))
    return Starlette(routes=routes)


@contextlib.contextmanager
def rest_server(recorder, certificates=None):
    tls = {}
    if certificates is not None:
        tls = {
            "ssl_certfile": certificates.chain,
            "ssl_keyfile": certificates.key,
            "ssl_ca_certs": certificates.ca,
            "ssl_cert_reqs": ssl.CERT_REQUIRED if certificates.asks_client else ssl.CERT_NONE,
        }
    config = uvicorn.Config(rest_app(recorder), lifespan="off", log_config=None, access_log=False, **tls)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:  # who connects before it runs waits in the backlog
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            port = listener.getsockname()[1]
            yield f"http://127.0.0.1:{port}" if certificates is None else f"https://localhost:{port}"
        finally:
            recorder.gate.set()
            server.should_exit = True
            thread.join()


SERVERS = {"grpc": grpc_server, "rest": rest_server}


@pytest.fixture(params=SERVERS)
def protocol(request):
    return request.param


@pytest.fixture(params=[Client, AsyncClient])
def kind(request):
    return request.param


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def target(protocol, recorder):
    with SERVERS[protocol](recorder) as target:
        yield target


def ask(kind, target, *calls, **options):
    if kind is Client:
        with Client(target, **options) as client:
            return [getattr(client, method)(*args, **keywords) for method, args, keywords in calls]

    async def main():
        async with AsyncClient(target, **options) as client:
            return [await getattr(client, method)(*args, **keywords) for method, args, keywords in calls]

    return asyncio.run(main())


IMAGES = np.zeros((2, 4, 4, 1), np.float32)


def call(method, *args, **keywords):
    return method, args, keywords


PREDICT = call("predict", IMAGES)


@pytest.mark.parametrize(
    ("choice", "path"), [({"label": "stable"}, "/labels/stable"), ({"version": 3}, "/versions/3"), ({}, "")], ids=str
)
def test_the_choice_of_a_version_reaches_the_server(kind, protocol, target, recorder, choice, path):
    (answer,) = ask(kind, target, PREDICT, **choice)
    assert answer.class_names.tolist() == ["dark", "dark"]
    (request,) = recorder.predictions()
    assert {"label": request.label, "version": request.version} == {"label": None, "version": None} | choice
    if protocol == "rest":  # which asks what the outputs are first
        assert recorder.requests[0].path == f"/v1/models/clustr{path}/metadata"


def test_metadata_of_the_call_come_on_top_of_the_clients(kind, target, recorder):
    ask(
        kind,
        target,
        PREDICT,
        call("predict", IMAGES, metadata={"Authorization": "Bearer two", "x-trace": "7"}),
        PREDICT,
        metadata={"authorization": "Bearer one", "X-Tenant": "a b"},
    )
    seen = [
        [request.headers.get(name) for name in ("authorization", "x-tenant", "x-trace")]
        for request in recorder.requests
    ]
    assert all(headers in (["Bearer one", "a b", None], ["Bearer two", "a b", "7"]) for headers in seen)
    assert [headers[0] for headers in seen[-3:]] == ["Bearer one", "Bearer two", "Bearer one"]


def test_one_connection_serves_all_requests_of_a_client(kind, target, recorder):
    ask(kind, target, *[PREDICT] * 5)
    peers = [request.peer for request in recorder.predictions()]
    assert len(peers) == 5
    assert len(set(peers)) == 1


def test_encoded_images_arrive_as_they_are_split_by_rows_and_bytes(kind, protocol, target, recorder):
    files = [b"\x89PNG\x00", b"\xff\xd8" + bytes(300), b"\x00", b"end\x00\x00"]
    (answer,) = ask(kind, target, call("certify_encoded", files), max_bytes=120)
    assert answer.class_ids.tolist() == [0, 0, 0, 0]
    assert answer.lipschitz_bound.dtype == np.float32
    requests = recorder.predictions()
    assert {request.signature for request in requests} == {"certify_encoded"}
    assert sorted(request.files for request in requests) == sorted([files[:1], files[1:2], files[2:]])


def test_a_deadline_holds_whatever_the_server_does(kind, target, recorder):
    recorder.gate.clear()
    for client_timeout, options in ((0.2, {}), (60, {"timeout": 0.2})):
        with pytest.raises(ServingError) as caught:
            ask(kind, target, call("predict", IMAGES, **options), timeout=client_timeout)
        assert caught.value.code == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize(
    ("code", "http_status", "attempts"),
    [("UNAVAILABLE", 503, 3), ("RESOURCE_EXHAUSTED", 413, 1), ("RESOURCE_EXHAUSTED", 429, 1), ("INTERNAL", 500, 1)],
)
def test_only_what_is_unavailable_is_asked_again(kind, target, recorder, monkeypatch, code, http_status, attempts):
    monkeypatch.setattr("clustr_keras.serving.retries._FIRST_WAIT", 1e-3)
    recorder.refusals = [ServingError(code, "not now", http_status=http_status) for _ in range(2)]
    if code == "UNAVAILABLE":
        assert ask(kind, target, PREDICT)[0].class_ids.tolist() == [0, 0]
    else:
        with pytest.raises(ServingError, match="not now") as caught:
            ask(kind, target, PREDICT)
        assert caught.value.code == code
    assert len(recorder.predictions()) == attempts


def test_a_version_with_other_outputs_that_comes_while_a_client_is_at_work(kind, target, recorder):
    class Late:  # a batch that is made when it is needed: between the two calls
        def __array__(self, dtype=None, copy=None):
            recorder.outputs.pop("certified_radius")
            return IMAGES

    before, after = ask(kind, target, PREDICT, call("predict", Late()))
    assert before.certified_radius.tolist() == [0.5, 0.5]
    assert after.certified_radius is None
    assert after.class_ids.tolist() == [0, 0]


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    ca = trustme.CA()
    files = SimpleNamespace(ca=folder / "ca.pem", key=folder / "server.key", chain=folder / "server.pem")
    files.client = (str(folder / "client.pem"), str(folder / "client.key"))
    ca.cert_pem.write_to_path(files.ca)
    server, client = ca.issue_cert("localhost"), ca.issue_cert("someone@example.org")
    server.private_key_pem.write_to_path(files.key)
    server.cert_chain_pems[0].write_to_path(files.chain)
    client.cert_chain_pems[0].write_to_path(files.client[0])
    client.private_key_pem.write_to_path(files.client[1])
    return files


@pytest.mark.parametrize("asks_client", [False, True])
def test_tls_with_a_private_authority(kind, protocol, recorder, authority, asks_client):
    certificates = SimpleNamespace(**vars(authority), asks_client=asks_client)
    with SERVERS[protocol](recorder, certificates) as target:
        enough = {"ca_certificate": authority.ca}
        if asks_client:
            with pytest.raises(ServingError, match="UNAVAILABLE"):
                ask(kind, target, PREDICT, attempts=1, **enough)
            enough["client_certificate"] = authority.client
        with pytest.raises(ServingError, match="UNAVAILABLE"):
            ask(kind, target, PREDICT, attempts=1)
        assert recorder.requests == []
        assert ask(kind, target, PREDICT, **enough)[0].class_ids.tolist() == [0, 0]


def test_certificates_that_are_none_are_an_error_at_once(kind, authority, tmp_path):
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("no certificate")
    certificate, key = authority.client
    for target in ("grpcs://localhost:1", "https://localhost:1"):
        with pytest.raises(ValueError, match=r"ca_certificate must be a PEM file.*nonsense\.pem"):
            kind(target, ca_certificate=nonsense)
        with pytest.raises(ValueError, match=r"client_certificate a PEM certificate"):
            kind(target, client_certificate=(key, certificate))
        with pytest.raises(ValueError, match=r"must be a pair of files.*got '.*client\.pem'"):
            kind(target, client_certificate=certificate)
        with pytest.raises(FileNotFoundError, match=r"missing\.pem"):
            kind(target, ca_certificate=tmp_path / "missing.pem")


def test_an_encrypted_key_is_an_error_and_no_question(authority, tmp_path):
    from cryptography.hazmat.primitives import serialization

    certificate, key = authority.client
    with open(key, "rb") as file:
        loaded = serialization.load_pem_private_key(file.read(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ValueError, match="unencrypted PEM key"):
        Client("grpcs://localhost:1", client_certificate=(certificate, locked))


@pytest.mark.parametrize("target", ["localhost:1", "grpc://localhost:1", "http://localhost:1"])
def test_certificates_for_a_target_in_the_clear_are_an_error(kind, authority, target):
    encrypted = "https://localhost:1" if "http" in target else "grpcs://localhost:1"
    with pytest.raises(ValueError, match=f"in the clear. Pass '{encrypted}'"):
        kind(target, ca_certificate=authority.ca)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"two words": "x"}, "got 'two words'"),
        ({"": "x"}, "names in metadata"),
        ({3: "x"}, "got 3"),
        ({"Content-Type": "text/plain"}, "got 'Content-Type'"),
        ({"grpc-timeout": "1S"}, "got 'grpc-timeout'"),
        ({"key-bin": "x"}, "got 'key-bin'"),
        ({"authorization": "Bearer s3cret\n"}, r"'authorization'.*\.strip\(\)"),
        ({"authorization": "Bearer s3crét"}, "printable ASCII"),
        ({"authorization": b"s3cret"}, "printable ASCII"),
        ({"authorization": ""}, "not empty"),
    ],
)
def test_metadata_that_cannot_be_sent_are_an_error_that_keeps_secrets(kind, metadata, words):
    for target in ("localhost:1", "http://localhost:1"):
        with pytest.raises(ValueError, match=words) as caught:
            kind(target, metadata=metadata)
        assert "s3cr" not in str(caught.value)
