"""NumPy arrays as TensorProto, the form of a tensor over gRPC, and back."""

import math

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from clustr_keras.serving.errors import ServingError
from clustr_keras.types import ArrayLike


def array_from_proto(proto: tensor_pb2.TensorProto, name: str, max_bytes: int | None = None) -> np.ndarray:
    """Array of a TensorProto.

    Args:
        proto: A `TensorProto`.
        name: The tensor's name, for error messages.
        max_bytes: Largest size of the array. A few bytes of TensorProto may declare any size, as one value stands for
            all that are missing; so what comes from outside needs a bound of its own.

    Returns:
        An array; strings as an object array of `bytes`.

    Raises:
        ServingError: INVALID_ARGUMENT, if shape and values contradict each other; RESOURCE_EXHAUSTED, if larger than
            `max_bytes`.
    """
    shape = [axis.size for axis in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        raise ServingError("INVALID_ARGUMENT", f'tensor "{name}" must have a known shape; got {shape}.')
    try:
        itemsize = tf.dtypes.as_dtype(proto.dtype).size
        size = itemsize * math.prod(shape)
        if max_bytes is not None and size > max_bytes:
            raise ServingError(
                "RESOURCE_EXHAUSTED",
                f'tensor "{name}" of shape {shape} takes {size} bytes; the limit is {max_bytes}. Send fewer examples.',
            )
        return np.asarray(tf.make_ndarray(proto))
    except (KeyError, TypeError, ValueError) as error:  # KeyError: a type that NumPy lacks
        raise ServingError("INVALID_ARGUMENT", f'tensor "{name}" is malformed: {error}') from None


def declared_bytes(proto: tensor_pb2.TensorProto) -> int:
    """Size in bytes of the array that a TensorProto declares, before anything is made of it; 0 if it declares none."""
    try:
        itemsize = tf.dtypes.as_dtype(proto.dtype).size
    except (KeyError, TypeError, ValueError):
        return 0
    return itemsize * math.prod(max(0, axis.size) for axis in proto.tensor_shape.dim)


def proto_from_array(array: ArrayLike) -> tensor_pb2.TensorProto:
    """TensorProto of an array; text is encoded as UTF-8."""
    array = np.asarray(array)
    if array.dtype.kind in "US":
        array = array.astype(object)
    return tf.make_tensor_proto(array)
