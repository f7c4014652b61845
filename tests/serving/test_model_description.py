import pytest

from clustr_keras.serving.errors import ServingError
from clustr_keras.serving.model_description import (
    SignatureInfo,
    TensorInfo,
    VersionStatus,
    signatures_from_json,
    versions_from_json,
)


def metadata(**signatures):
    return {"metadata": {"signature_def": {"signature_def": signatures}}}


def test_signatures_as_model_server_writes_them():
    images = {
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}, {"size": "32", "name": ""}], "unknown_rank": False},
        "name": "serving_default_images:0",
    }
    init = {"outputs": {"__saved_model_init_op": {"dtype": "DT_INVALID", "tensor_shape": {"unknown_rank": True}}}}
    document = metadata(
        certify={"inputs": {"images": images}, "outputs": {"y": {"dtype": "DT_INT64", "tensor_shape": {}}}},
        __saved_model_init_op={"inputs": {}} | init,
    )
    assert signatures_from_json(document) == {
        "certify": SignatureInfo({"images": TensorInfo("DT_FLOAT", (None, 32))}, {"y": TensorInfo("DT_INT64", ())})
    }


def test_versions_as_model_server_writes_them():
    status = {"error_code": "OK", "error_message": ""}
    document = {
        "model_version_status": [
            {"version": "2", "state": "AVAILABLE", "status": status},
            {"version": "1", "state": "END", "status": {"error_code": 5, "error_message": "gone"}},
        ]
    }
    assert versions_from_json(document) == [
        VersionStatus(2, "AVAILABLE", "OK", ""),
        VersionStatus(1, "END", "NOT_FOUND", "gone"),
    ]


@pytest.mark.parametrize(
    "document", [{}, {"metadata": {}}, metadata(x=3), metadata(x={"inputs": {"x": {}}, "outputs": {}}), {"metadata": 1}]
)
def test_what_is_no_metadata_is_an_error(document):
    with pytest.raises(ServingError, match="not a model's metadata") as caught:
        signatures_from_json(document)
    assert caught.value.code == "UNKNOWN"


@pytest.mark.parametrize(
    "document",
    [{}, *({"model_version_status": value} for value in (3, [3], [{}], [{"version": "x", "status": {}}]))],
)
def test_what_is_no_status_is_an_error(document):
    with pytest.raises(ServingError, match="not a model's status") as caught:
        versions_from_json(document)
    assert caught.value.code == "UNKNOWN"
