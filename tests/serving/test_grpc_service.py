import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

X = {"x": np.float32([1, 2, 5])}


@pytest.fixture(scope="module")
def channel(toy_server):
    with grpc.insecure_channel(toy_server.grpc_target) as channel:
        yield channel


@pytest.fixture(scope="module")
def prediction(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def model_service(channel):
    return model_service_pb2_grpc.ModelServiceStub(channel)


def predict_request(inputs, output_filter=(), **spec):
    request = predict_pb2.PredictRequest(output_filter=output_filter)
    fill(request.model_spec, **spec)
    for name, array in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    return request


def fill(spec, name="toy", signature="", version=None, label=None):
    spec.name = name
    spec.signature_name = signature
    if version is not None:
        spec.version.value = version
    if label is not None:
        spec.version_label = label


def refused(code):
    return pytest.raises(grpc.RpcError, check=lambda error: error.code() is code)


def test_predict_fills_the_model_spec(prediction):
    response = prediction.Predict(predict_request(X), timeout=30)
    assert tf.make_ndarray(response.outputs["y"]).tolist() == [3.5, 4.0, 5.5]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("toy", 3, "serving_default")


def test_predict_takes_a_version_and_a_signature(prediction):
    response = prediction.Predict(predict_request(X, signature="mean", version=2), timeout=30)
    assert (response.model_spec.version.value, response.model_spec.signature_name) == (2, "mean")
    response = prediction.Predict(predict_request(X, version=2), timeout=30)
    assert tf.make_ndarray(response.outputs["y"]).tolist() == [2.5, 3.0, 4.5]


def test_output_filter(prediction):
    response = prediction.Predict(predict_request(X, ["mean"], signature="mean"), timeout=30)
    assert set(response.outputs) == {"mean"}


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        (predict_request(X, name="other"), "NOT_FOUND", "other"),
        (predict_request(X, name=""), "INVALID_ARGUMENT", "must name a model"),
        (predict_request(X, signature="\U0001f600" * 1000), "FAILED_PRECONDITION", "signature"),
        (predict_request(X, version=7), "NOT_FOUND", "version 7"),
        (predict_request(X, label="stable"), "INVALID_ARGUMENT", "stable"),
        (predict_request(X, signature="nope"), "FAILED_PRECONDITION", "nope"),
        (predict_request({}), "INVALID_ARGUMENT", "missing"),
        (predict_request(X | {"z": 1}), "INVALID_ARGUMENT", "z"),
        (predict_request({"x": np.float64([1])}), "INVALID_ARGUMENT", "float64"),
        (predict_request({"x": np.float32(1)}), "INVALID_ARGUMENT", "shape"),
        (predict_request(X, ["nope"]), "INVALID_ARGUMENT", "nope"),
        (predict_request({"x": np.zeros(2**20, np.float32)}), "RESOURCE_EXHAUSTED", "larger than max"),
    ],
)
def test_errors_have_their_codes(prediction, request_, code, words):
    with refused(grpc.StatusCode[code]) as caught:
        prediction.Predict(request_, timeout=30)
    assert words in caught.value.details()


def test_a_small_message_cannot_stand_for_a_large_tensor(prediction):
    request = predict_request({"x": np.float32([1])})
    request.inputs["x"].tensor_shape.dim[0].size = 10**12
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
        prediction.Predict(request, timeout=30)


def test_metadata_has_all_signatures(prediction):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    fill(request.model_spec, version=2)
    response = prediction.GetModelMetadata(request, timeout=30)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert response.model_spec.version.value == 2
    assert set(signatures.signature_def["three_inputs"].inputs) == {"tag", "signal", "sensor"}


@pytest.mark.parametrize("fields", [[], ["other"], ["signature_def", "other"]])
def test_only_signatures_are_metadata(prediction, fields):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    fill(request.model_spec)
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        prediction.GetModelMetadata(request, timeout=30)


def test_calls_for_examples_are_refused(prediction, model_service):
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        prediction.Classify(classification_pb2.ClassificationRequest(), timeout=30)
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        prediction.Regress(regression_pb2.RegressionRequest(), timeout=30)
    with refused(grpc.StatusCode.UNIMPLEMENTED):
        prediction.MultiInference(inference_pb2.MultiInferenceRequest(), timeout=30)
    with refused(grpc.StatusCode.UNIMPLEMENTED):
        model_service.HandleReloadConfigRequest(model_management_pb2.ReloadConfigRequest(), timeout=30)


def test_status_of_all_versions_and_of_one(model_service):
    request = get_model_status_pb2.GetModelStatusRequest()
    fill(request.model_spec)
    status = model_service.GetModelStatus(request, timeout=30).model_version_status
    assert [(entry.version, entry.state, entry.status.error_code) for entry in status] == [(3, 30, 0), (2, 30, 0)]
    fill(request.model_spec, version=2)
    status = model_service.GetModelStatus(request, timeout=30).model_version_status
    assert [entry.version for entry in status] == [2]


@pytest.mark.parametrize(
    ("spec", "code"),
    [({"name": "other"}, "NOT_FOUND"), ({"version": 7}, "NOT_FOUND"), ({"label": "stable"}, "INVALID_ARGUMENT")],
)
def test_status_errors(model_service, spec, code):
    request = get_model_status_pb2.GetModelStatusRequest()
    fill(request.model_spec, **spec)
    with refused(grpc.StatusCode[code]):
        model_service.GetModelStatus(request, timeout=30)
