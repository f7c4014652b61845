"""TensorFlow Serving's gRPC services, PredictionService and ModelService, over a ModelStore."""

import asyncio
import logging

import grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from clustr_keras.serving.errors import ServingError
from clustr_keras.serving.model_info import model_status, signature_def_map
from clustr_keras.serving.tensor_proto import array_from_proto, proto_from_array

_log = logging.getLogger(__name__)


def build_grpc_server(store, pool, max_request_bytes):
    """A `grpc.aio` server for the models of a store, without a port yet.

    Args:
        store: A `ModelStore`.
        pool: Executor on which models run, so that the event loop only moves bytes.
        max_request_bytes: Largest request, and largest input tensor. A larger one is RESOURCE_EXHAUSTED.

    Returns:
        A `grpc.aio.Server`.
    """
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", max_request_bytes),
            ("grpc.max_send_message_length", -1),
            # Otherwise a second server could take the same port, and callers would reach either.
            ("grpc.so_reuseport", 0),
        ]
    )
    prediction = PredictionService(store, pool, max_request_bytes)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(prediction, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(store), server)
    return server


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata; the example-based calls are refused, as for any model without such signatures."""

    def __init__(self, store, pool, max_request_bytes):
        """Takes what `build_grpc_server` takes."""
        self._store = store
        self._pool = pool
        self._max_tensor_bytes = max_request_bytes

    async def Predict(self, request, context):  # noqa: N802
        """Run one signature of one version."""
        return await _answer(self._predict, request, context, self._pool)

    async def GetModelMetadata(self, request, context):  # noqa: N802
        """The signatures of one version."""
        return await _answer(self._get_model_metadata, request, context)

    async def Classify(self, request, context):  # noqa: N802
        """INVALID_ARGUMENT: signatures here take tensors, not tf.Examples."""
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no signature is for Classify; use Predict.")

    async def Regress(self, request, context):  # noqa: N802
        """INVALID_ARGUMENT: signatures here take tensors, not tf.Examples."""
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no signature is for Regress; use Predict.")

    async def MultiInference(self, request, context):  # noqa: N802
        """UNIMPLEMENTED."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "MultiInference is not implemented; use Predict.")

    def _predict(self, request):
        model = _find_model(self._store, request)
        inputs = {name: array_from_proto(proto, name, self._max_tensor_bytes) for name, proto in request.inputs.items()}
        outputs = model.run(request.model_spec.signature_name, inputs, request.output_filter)
        response = predict_pb2.PredictResponse()
        _fill_model_spec(response.model_spec, self._store.name, model.version)
        response.model_spec.signature_name = model.signature_name(request.model_spec.signature_name)
        for name, array in outputs.items():
            response.outputs[name].CopyFrom(proto_from_array(array))
        return response

    def _get_model_metadata(self, request):
        if set(request.metadata_field) != {"signature_def"}:
            raise ServingError(
                "INVALID_ARGUMENT", f'metadata_field must be ["signature_def"]; got {list(request.metadata_field)}.'
            )
        model = _find_model(self._store, request)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        _fill_model_spec(response.model_spec, self._store.name, model.version)
        response.metadata["signature_def"].Pack(signature_def_map(model))
        return response


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus; which models are served is decided where the server is started."""

    def __init__(self, store):
        """Takes what `build_grpc_server` takes."""
        self._store = store

    async def GetModelStatus(self, request, context):  # noqa: N802
        """The state of each version, newest first."""
        return await _answer(self._get_model_status, request, context)

    async def HandleReloadConfigRequest(self, request, context):  # noqa: N802
        """UNIMPLEMENTED."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the configuration cannot be changed while serving.")

    def _get_model_status(self, request):
        spec = request.model_spec
        if spec.WhichOneof("version_choice") == "version_label":
            _find_model(self._store, request)  # says what is wrong with the label
        version = spec.version.value if spec.HasField("version") else None
        return model_status(self._store.versions(spec.name, version))


def _find_model(store, request):
    """The model that a request's `model_spec` means."""
    spec = request.model_spec
    choice = spec.WhichOneof("version_choice")
    return store.find(
        spec.name,
        version=spec.version.value if choice == "version" else None,
        label=spec.version_label if choice == "version_label" else None,
    )


def _fill_model_spec(spec, name, version):
    spec.name = name
    spec.version.value = version


async def _answer(handler, request, context, pool=None):
    """Run a handler, on the pool if it takes time, and turn its errors into gRPC's."""
    try:
        if pool is None:
            return handler(request)
        return await asyncio.get_running_loop().run_in_executor(pool, handler, request)
    except ServingError as error:
        await context.abort(grpc.StatusCode[error.code], error.message)
    except Exception:  # a bug: the caller learns that there is one, the log which
        _log.exception("gRPC request failed")
        await context.abort(grpc.StatusCode.INTERNAL, "the server failed; its log says why.")
