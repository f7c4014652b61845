"""What a server says about its models, as TensorFlow Serving's messages; gRPC and REST both answer with these."""

from collections.abc import Iterable

from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from clustr_keras.serving.errors import CODES
from clustr_keras.serving.loaded_model import LoadedModel
from clustr_keras.serving.model_store import Version


def model_status(versions: Iterable[Version]) -> get_model_status_pb2.GetModelStatusResponse:
    """State of each version.

    Args:
        versions: A list of `Version`.

    Returns:
        A `GetModelStatusResponse`, in the same order.
    """
    response = get_model_status_pb2.GetModelStatusResponse()
    states = get_model_status_pb2.ModelVersionStatus
    for version in versions:
        entry = response.model_version_status.add(
            version=version.number, state=states.AVAILABLE if version.model else states.END
        )
        entry.status.error_code = CODES.index("OK" if version.model else "UNKNOWN")
        entry.status.error_message = version.error
    return response


def signature_def_map(model: LoadedModel) -> get_model_metadata_pb2.SignatureDefMap:
    """All signatures of a `LoadedModel`, as a `SignatureDefMap`."""
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, definition in model.signature_defs.items():
        signatures.signature_def[name].CopyFrom(definition)
    return signatures
