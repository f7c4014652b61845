import base64
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clustr_keras.serving.errors import ServingError
from clustr_keras.serving.tensor_json import array_from_json, array_to_json, numpy_dtype

DTYPES = ["float16", "float32", "float64", "int8", "int64", "uint8", "uint64", "bool"]


@given(st.data())
def test_a_tensor_survives_the_way_through_json_bit_for_bit(data):
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    array = data.draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4)))
    text = json.dumps(array_to_json(array, "x"))
    np.testing.assert_array_equal(array_from_json(json.loads(text), dtype, "x"), array, strict=True)


@given(hnp.arrays(object, hnp.array_shapes(min_dims=0), elements=st.binary(max_size=9)))
def test_any_bytes_survive_in_a_tensor_that_is_named_bytes(array):
    back = array_from_json(json.loads(json.dumps(array_to_json(array, "x_bytes"))), object, "x_bytes")
    assert back.tolist() == array.tolist()


def test_float32_is_written_with_the_digits_it_needs():
    assert json.dumps(array_to_json(np.array([0.2, 1.0, 3e-5, np.nan, -np.inf], np.float32), "x")) == (
        "[0.2, 1.0, 3e-05, NaN, -Infinity]"
    )


def test_text_is_written_as_text_and_binary_as_base64():
    array = np.array(["é".encode(), b"b"], dtype=object)
    assert array_to_json(array, "names") == ["é", "b"]
    assert array_to_json(array, "image_bytes")[1] == {"b64": base64.b64encode(b"b").decode()}


def test_binary_output_without_the_suffix_is_an_error():
    with pytest.raises(ServingError, match=r"UTF-8.*_bytes"):
        array_to_json(np.array([b"\xff"], dtype=object), "names")


def test_base64_is_read_with_and_without_padding():
    assert array_from_json([{"b64": "YQ=="}, {"b64": "YQ"}, "a"], object, "x").tolist() == [b"a"] * 3


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        ([1.0, "2.0"], np.float32, "got '2.0' as value 1"),
        ([1.0, True], np.float32, "got True"),
        ([1.0, None], np.float32, "got None"),
        ([1, 0], np.bool_, "got 1"),
        ([1, 2.0], np.int64, "got 2.0"),
        ([1, True], np.int64, "got True"),
        ([1, 300], np.uint8, "300 is outside 0..255"),
        (2**63, np.int64, "outside"),
        (2**24, np.float32, "without loss"),
        (10**400, np.float64, "without loss"),
        ([1e39], np.float32, "too large"),
        ([1], object, "got 1"),
        ([{"b64": "?"}], object, "not base64"),
        ([{"b64": "YQ==", "x": 1}], object, "b64"),
        (["\ud800"], object, "not Unicode"),
        ({"a": 1}, np.float32, "got {'a': 1}"),
        ([[1, 2], [3]], np.float32, r"differ in length: \[1, 2\]"),
        ([[1], 2], np.float32, "mixed"),
        ([1, [2]], np.float32, r"got \[2\]"),
    ],
)
def test_a_value_that_does_not_fit_is_named(value, dtype, message):
    with pytest.raises(ServingError, match=message) as caught:
        array_from_json(value, dtype, "x")
    assert caught.value.code == "INVALID_ARGUMENT"
    assert '"x"' in caught.value.message


def test_lists_deeper_than_any_tensor_are_an_error():
    value = []
    for _ in range(500):
        value = [value]
    with pytest.raises(ServingError, match="nested deeper"):
        array_from_json(value, np.float32, "x")


def test_empty_lists_keep_the_axes_they_show():
    assert array_from_json([[], []], np.float32, "x").shape == (2, 0)


def test_a_type_without_json_form_is_unimplemented():
    with pytest.raises(ServingError, match="DT_RESOURCE") as caught:
        numpy_dtype("DT_RESOURCE")
    assert caught.value.code == "UNIMPLEMENTED"
