"""Requests as TensorFlow Serving's messages, and answers read from them. Importing this imports TensorFlow."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from google.protobuf import json_format
from google.protobuf.message import Message
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from clustr_keras.serving import splitting
from clustr_keras.serving.endpoint import ModelChoice
from clustr_keras.serving.model_description import signatures_from_json, versions_from_json
from clustr_keras.serving.tensor_proto import array_from_proto, proto_from_array
from clustr_keras.types import Floats


@dataclass(frozen=True)
class GrpcRequest:
    """A request, ready to send any number of times.

    Attributes:
        method: Name of the remote method.
        message: What it takes.
        read: Function that makes the result of the response.
    """

    method: str
    message: Message
    read: Callable[[Message], Any]


class GrpcRequests:
    """Makes the requests to one model.

    Args:
        model: A `ModelChoice`.
    """

    def __init__(self, model: ModelChoice) -> None:
        self._model = model

    @staticmethod
    def row_bytes(array: np.ndarray) -> Floats:
        """About how many bytes each row of an array takes in a request."""
        return splitting.row_bytes(array, number_bytes=array.itemsize, string_bytes=len)

    def predict(self, signature: str, inputs: Mapping[str, np.ndarray]) -> GrpcRequest:
        """Run a signature: answers name to array, strings as object arrays of `bytes`."""
        message = self._for_model(predict_pb2.PredictRequest())
        message.model_spec.signature_name = signature
        for name, array in inputs.items():
            message.inputs[name].CopyFrom(proto_from_array(array))
        return GrpcRequest("Predict", message, _outputs)

    def signatures(self) -> GrpcRequest:
        """Ask for the signatures: answers name to `SignatureInfo`."""
        message = self._for_model(get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"]))
        return GrpcRequest("GetModelMetadata", message, _signatures)

    def versions(self) -> GrpcRequest:
        """Ask for the state of the versions: answers a list of `VersionStatus`."""
        message = self._for_model(get_model_status_pb2.GetModelStatusRequest())
        return GrpcRequest("GetModelStatus", message, lambda response: versions_from_json(_json(response)))

    def _for_model(self, message):
        spec = message.model_spec
        spec.name = self._model.name
        if self._model.version is not None:
            spec.version.value = self._model.version
        elif self._model.label is not None:
            spec.version_label = self._model.label
        return message


def remote_methods(channel: grpc.Channel | grpc.aio.Channel) -> dict[str, Callable[..., Any]]:
    """The methods that the requests name.

    Args:
        channel: A `grpc.Channel` or a `grpc.aio.Channel`.

    Returns:
        A dictionary, name to callable.
    """
    prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    models = model_service_pb2_grpc.ModelServiceStub(channel)
    return {
        "Predict": prediction.Predict,
        "GetModelMetadata": prediction.GetModelMetadata,
        "GetModelStatus": models.GetModelStatus,
    }


def _outputs(response):
    return {name: np.asarray(array_from_proto(proto, name)) for name, proto in response.outputs.items()}


def _signatures(response):
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    return signatures_from_json({"metadata": {"signature_def": _json(signatures)}})


def _json(message):
    return json_format.MessageToDict(message, preserving_proto_field_name=True)
