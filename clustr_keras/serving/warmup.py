"""Warm-up requests: what a server replays before a version answers, so that no caller waits for its first run."""

import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from clustr_keras.serving.loaded_model import LoadedModel
from clustr_keras.serving.tensor_proto import array_from_proto, proto_from_array

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
# ModelServer refuses a file with more.
MOST_RECORDS = 1000


def write_warmup(folder: str | os.PathLike[str], requests: Iterable[tuple[str, Mapping[str, np.ndarray]]]) -> None:
    """Writes the warm-up file of a version folder.

    Args:
        folder: `pathlib.Path` of the version folder.
        requests: Pairs of a signature's name and its inputs, name to array.
    """
    path = pathlib.Path(folder) / WARMUP_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature_name, inputs in requests:
            request = predict_pb2.PredictRequest()
            request.model_spec.signature_name = signature_name
            for name, array in inputs.items():
                request.inputs[name].CopyFrom(proto_from_array(array))
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString())


def read_warmup(folder: str | os.PathLike[str]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Reads the warm-up requests of a version folder.

    Args:
        folder: `pathlib.Path` of the version folder.

    Yields:
        Pairs of a signature's name and its inputs, name to array; none where there is no file.

    Raises:
        ValueError: If there are too many, or one is no Predict request.
        tf.errors.DataLossError: If the file is damaged.
    """
    path = pathlib.Path(folder) / WARMUP_FILE
    if not path.exists():
        return
    for index, record in enumerate(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()):
        if index == MOST_RECORDS:
            raise ValueError(f"{path} has more than {MOST_RECORDS} records.")
        try:
            log = prediction_log_pb2.PredictionLog.FromString(record)
        except DecodeError as error:
            raise ValueError(f"record {index} of {path} is no PredictionLog: {error}.") from error
        if log.WhichOneof("log_type") != "predict_log":
            raise ValueError(f"record {index} of {path} must be a predict_log; got {log.WhichOneof('log_type')}.")
        request = log.predict_log.request
        yield (
            request.model_spec.signature_name,
            {name: array_from_proto(proto, name) for name, proto in request.inputs.items()},
        )


def replay_warmup(model: LoadedModel, folder: str | os.PathLike[str]) -> None:
    """Runs the warm-up requests of a version folder on its `LoadedModel`.

    Raises:
        Exception: What one of them raises: such a version is not to be served, as ModelServer does not.
    """
    for signature_name, inputs in read_warmup(folder):
        model.run(signature_name, inputs)
