"""Requests over gRPC. The message types import TensorFlow, so they load with the first request."""

import grpc
import numpy as np

from clustr_keras.serving.errors import ServingError


class GrpcTransport:
    """One channel to a server.

    Args:
        address: `host:port`.
        model: The model's name.
        version: Its version, or None for the server's choice.
        is_local: Whether the server is on this machine, where no proxy can help.
    """

    def __init__(self, address, model, version, is_local):
        """Connecting is left to the first request."""
        self._model = model
        self._version = version
        self._channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),  # the server knows its limit and says so
                ("grpc.enable_http_proxy", 0 if is_local else 1),
                # A retry within the same second must find a channel that tries again too.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 2000),
            ],
        )

    @staticmethod
    def wire_bytes(array):
        """About how many bytes an array takes in a request."""
        return sum(map(len, array.ravel())) if array.dtype == object else array.nbytes

    def encode(self, signature, inputs):
        """The request, ready to send any number of times."""
        from tensorflow_serving.apis import predict_pb2

        from clustr_keras.serving.tensor_proto import proto_from_array

        request = predict_pb2.PredictRequest()
        request.model_spec.name = self._model
        request.model_spec.signature_name = signature
        if self._version is not None:
            request.model_spec.version.value = self._version
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(proto_from_array(array))
        return request

    def send(self, request, timeout):
        """Send once, and wait.

        Args:
            request: What `encode` made.
            timeout: Seconds.

        Returns:
            Name to array; strings as object arrays of `bytes`.

        Raises:
            ServingError: With the server's code, or UNAVAILABLE or DEADLINE_EXCEEDED if it did not answer.
        """
        from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

        from clustr_keras.serving.tensor_proto import array_from_proto

        try:
            response = PredictionServiceStub(self._channel).Predict(request, timeout=timeout)
        except grpc.RpcError as error:
            raise ServingError(error.code().name, error.details() or "") from error
        return {name: np.asarray(array_from_proto(proto, name)) for name, proto in response.outputs.items()}

    def close(self):
        """Close the channel."""
        self._channel.close()
