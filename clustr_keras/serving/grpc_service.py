"""TensorFlow Serving's gRPC services, PredictionService and ModelService, over a Predictor."""

import logging

import grpc
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

from clustr_keras.serving.errors import ServingError
from clustr_keras.serving.model_info import model_status, signature_def_map
from clustr_keras.serving.model_stores import ModelStores
from clustr_keras.serving.predictor import Predictor
from clustr_keras.serving.tensor_proto import array_from_proto, declared_bytes, proto_from_array

_log = logging.getLogger(__name__)

# Seconds that an answer takes to its caller.
_ON_THE_WAY = 0.02


def build_grpc_server(predictor: Predictor) -> grpc.aio.Server:
    """A `grpc.aio` server for the models of a `Predictor`, without a port yet."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", predictor.max_request_bytes),
            ("grpc.max_send_message_length", -1),
            # What one connection may have under way; its further requests wait with the caller.
            ("grpc.max_concurrent_streams", 64),
            # Otherwise a second server could take the same port, and callers would reach either.
            ("grpc.so_reuseport", 0),
        ]
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(predictor), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(predictor.stores), server)
    return server


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata; the example-based calls are refused, as for any model without such signatures.

    Args:
        predictor: A `Predictor`.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._stores = predictor.stores

    async def Predict(  # noqa: N802
        self, request: predict_pb2.PredictRequest, context: grpc.aio.ServicerContext
    ) -> predict_pb2.PredictResponse:
        """Run one signature of one version."""
        return await _answer(self._predict, request, context)

    async def GetModelMetadata(  # noqa: N802
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.aio.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """The signatures of one version."""
        return await _answer(self._get_model_metadata, request, context)

    async def Classify(  # noqa: N802
        self, request: classification_pb2.ClassificationRequest, context: grpc.aio.ServicerContext
    ) -> None:
        """INVALID_ARGUMENT: signatures here take tensors, not tf.Examples."""
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no signature is for Classify; use Predict.")

    async def Regress(self, request: regression_pb2.RegressionRequest, context: grpc.aio.ServicerContext) -> None:  # noqa: N802
        """INVALID_ARGUMENT: signatures here take tensors, not tf.Examples."""
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no signature is for Regress; use Predict.")

    async def MultiInference(  # noqa: N802
        self, request: inference_pb2.MultiInferenceRequest, context: grpc.aio.ServicerContext
    ) -> None:
        """UNIMPLEMENTED."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "MultiInference is not implemented; use Predict.")

    async def _predict(self, request, context):
        def read(model):
            limit = self._predictor.max_request_bytes
            inputs = {name: array_from_proto(proto, name, limit) for name, proto in request.inputs.items()}
            return [model.prepare(request.model_spec.signature_name, inputs, request.output_filter)]

        with self._predictor.room() as room:
            room.take(request.ByteSize())
            # A few bytes of TensorProto may declare any size.
            room.take(max(0, sum(map(declared_bytes, request.inputs.values())) - request.ByteSize()))
            choice, labels = _choice(request.model_spec), ("Predict", "GRPC")
            return await self._predictor.predict(choice, labels, read, self._response, _time_left(context))

    def _response(self, model, call, outputs):
        response = predict_pb2.PredictResponse()
        _fill_model_spec(response.model_spec, model)
        response.model_spec.signature_name = call.signature_name
        for name, array in outputs.items():
            response.outputs[name].CopyFrom(proto_from_array(array))
        return response

    async def _get_model_metadata(self, request, context):
        if set(request.metadata_field) != {"signature_def"}:
            raise ServingError(
                "INVALID_ARGUMENT", f'metadata_field must be ["signature_def"]; got {list(request.metadata_field)}.'
            )
        model = self._stores.find(*_choice(request.model_spec))
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        _fill_model_spec(response.model_spec, model)
        response.metadata["signature_def"].Pack(signature_def_map(model))
        return response


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus; which models are served is decided where the server is started.

    Args:
        stores: A `ModelStores`.
    """

    def __init__(self, stores: ModelStores) -> None:
        self._stores = stores

    async def GetModelStatus(  # noqa: N802
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.aio.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """The state of each version, newest first."""
        return await _answer(self._get_model_status, request, context)

    async def HandleReloadConfigRequest(  # noqa: N802
        self, request: model_management_pb2.ReloadConfigRequest, context: grpc.aio.ServicerContext
    ) -> None:
        """UNIMPLEMENTED."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the configuration cannot be changed while serving.")

    async def _get_model_status(self, request, context):
        return model_status(self._stores.versions(*_choice(request.model_spec)))


def _time_left(context):
    """Seconds that a request may wait, or `None`: a little less than its caller does, who is to learn the reason."""
    remaining = context.time_remaining()
    return None if remaining is None else max(0.0, remaining - _ON_THE_WAY)


def _choice(spec):
    """Name, version and label, one of the latter two `None`."""
    if not spec.name:
        raise ServingError("INVALID_ARGUMENT", "model_spec must name a model.")
    choice = spec.WhichOneof("version_choice")
    return (
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )


def _fill_model_spec(spec, model):
    spec.name = model.name
    spec.version.value = model.version


async def _answer(handler, request, context):
    """Await a handler, and turn its errors into gRPC's."""
    try:
        return await handler(request, context)
    except ServingError as error:
        await context.abort(grpc.StatusCode[error.code], error.message)
    except Exception:  # a bug: the caller learns that there is one, the log which
        _log.exception("gRPC request failed")
        await context.abort(grpc.StatusCode.INTERNAL, "the server failed; its log says why.")
