import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

from clustr_keras.serving.errors import ServingError
from clustr_keras.serving.tensor_proto import array_from_proto, proto_from_array


@pytest.mark.parametrize(
    "array",
    [
        np.float32([[0.1, np.nan], [np.inf, -0.0]]),
        np.int64([2**62]),
        np.array(True),
        np.zeros((0, 3), np.float32),
        np.array([b"a\x00", b"\xff"], dtype=object),
    ],
)
def test_an_array_comes_back_as_it_was(array):
    np.testing.assert_array_equal(array_from_proto(proto_from_array(array), "x"), array, strict=True)


def test_text_is_sent_as_utf8():
    assert array_from_proto(proto_from_array(np.array(["é"])), "x").tolist() == ["é".encode()]


def test_one_value_cannot_stand_for_a_terabyte():
    proto = tf.make_tensor_proto(1.0)
    for size in (10**6, 10**6):
        proto.tensor_shape.dim.add(size=size)
    with pytest.raises(ServingError, match="4000000000000 bytes; the limit is 1000") as caught:
        array_from_proto(proto, "x", max_bytes=1000)
    assert caught.value.code == "RESOURCE_EXHAUSTED"


def test_sizes_that_overflow_are_counted_right():
    proto = tf.make_tensor_proto(1.0)
    for _ in range(2):
        proto.tensor_shape.dim.add(size=2**32)
    with pytest.raises(ServingError, match="RESOURCE_EXHAUSTED"):
        array_from_proto(proto, "x", max_bytes=1000)


def malformed(content=b"", sizes=(2,), dtype=types_pb2.DT_FLOAT, values=()):
    proto = tensor_pb2.TensorProto(tensor_content=content, dtype=dtype, float_val=values)
    for size in sizes:
        proto.tensor_shape.dim.add(size=size)
    return proto


@pytest.mark.parametrize(
    "proto",
    [
        malformed(content=b"12345"),
        malformed(content=b"1234"),
        malformed(values=[1, 2, 3]),
        malformed(sizes=[-1], values=[1]),
        malformed(dtype=types_pb2.DT_INVALID),
        malformed(dtype=types_pb2.DT_RESOURCE),
        tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, tensor_shape={"unknown_rank": True}),
    ],
)
def test_shape_and_values_that_contradict_each_other_are_an_error(proto):
    with pytest.raises(ServingError, match='"x"') as caught:
        array_from_proto(proto, "x", max_bytes=1000)
    assert caught.value.code == "INVALID_ARGUMENT"
