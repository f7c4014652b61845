import json

import numpy as np
import pytest

from clustr_keras.serving.errors import ServingError
from clustr_keras.serving.predict_json import parse_predict, read_inputs, write_outputs

ONE = {"x": np.dtype(np.float32)}
TWO = {"a": np.dtype(np.float32), "b": np.dtype(object)}


def read(document, dtypes):
    return read_inputs(parse_predict(json.dumps(document).encode()), dtypes)


@pytest.mark.parametrize(
    "document",
    [
        {"instances": [[1, 2], [3, 4]]},
        {"instances": [{"x": [1, 2]}, {"x": [3, 4]}]},
        {"inputs": [[1, 2], [3, 4]]},
        {"inputs": {"x": [[1, 2], [3, 4]]}},
        {"inputs": {"x": [[1, 2], [3, 4]], "ignored": "?"}},
    ],
)
def test_all_ways_to_give_one_tensor_mean_the_same(document):
    np.testing.assert_array_equal(read(document, ONE)["x"], np.array([[1, 2], [3, 4]], np.float32), strict=True)


def test_base64_values_are_no_named_inputs():
    dtypes = {"x": np.dtype(object)}
    assert read({"instances": [{"b64": "YQ=="}, "b"]}, dtypes)["x"].tolist() == [b"a", b"b"]
    assert read({"inputs": {"b64": "YQ=="}}, dtypes)["x"].tolist() == b"a"


def test_rows_and_columns_give_the_same_tensors():
    rows = read({"instances": [{"a": [1], "b": "x"}, {"a": [2], "b": "y"}]}, TWO)
    columns = read({"inputs": {"a": [[1], [2]], "b": ["x", "y"]}}, TWO)
    for name in TWO:
        np.testing.assert_array_equal(rows[name], columns[name], strict=True)


def test_columns_may_differ_in_their_first_axis():
    inputs = read({"inputs": {"a": [1, 2, 3], "b": "one"}}, TWO)
    assert inputs["a"].shape == (3,)
    assert inputs["b"].shape == ()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"instances": []}, "at least one"),
        ({"instances": {"a": 1}}, "must be a list"),
        ({"instances": [1, 2]}, "must name its tensors"),
        ({"instances": [{"a": 1, "b": "x"}, 2]}, "not both"),
        ({"instances": [{"a": 1}]}, r"instance 0 .*\['a', 'b'\]; got \['a'\]"),
        ({"instances": [{"a": 1, "b": "x"}, {"a": 1, "b": "x", "c": 2}]}, "instance 1"),
        ({"instances": [{"a": 1, "b": "x"}, {"a": [1], "b": "x"}]}, '"a"'),
        ({"inputs": [1]}, "must name its tensors"),
        ({"inputs": {"a": 1}}, r"lacks \['b'\]"),
    ],
)
def test_names_that_do_not_fit_are_an_error(document, message):
    with pytest.raises(ServingError, match=message) as caught:
        read(document, TWO)
    assert caught.value.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe\xfd", "not JSON"),
        (b'{"inputs": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 10_000, "nested too deeply"),
        (b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b"[1]", "must be an object"),
        (b"{}", "neither"),
        (b'{"inputs": 1, "instances": [1]}', "both"),
        (b'{"inputs": 1, "signature_name": 3}', "must be a string"),
    ],
)
def test_a_body_that_is_no_request_is_an_error(body, message):
    with pytest.raises(ServingError, match=message) as caught:
        parse_predict(body)
    assert caught.value.code == "INVALID_ARGUMENT"


def test_a_single_output_goes_without_its_name():
    outputs = {"y": np.array([[1, 2], [3, 4]], np.float32)}
    assert json.loads(write_outputs(outputs, is_row_format=True)) == {"predictions": [[1, 2], [3, 4]]}
    assert json.loads(write_outputs(outputs, is_row_format=False)) == {"outputs": [[1, 2], [3, 4]]}


def test_several_outputs_go_by_name():
    outputs = {"y": np.array([[1], [2]]), "z": np.array([b"a", b"b"], dtype=object)}
    assert json.loads(write_outputs(outputs, is_row_format=True)) == {
        "predictions": [{"y": [1], "z": "a"}, {"y": [2], "z": "b"}]
    }
    assert json.loads(write_outputs(outputs, is_row_format=False)) == {"outputs": {"y": [[1], [2]], "z": ["a", "b"]}}


@pytest.mark.parametrize("other", [np.zeros(3), np.zeros(())])
def test_rows_need_outputs_with_one_batch_size(other):
    outputs = {"y": np.zeros(2), "z": other}
    with pytest.raises(ServingError, match='send "inputs" instead'):
        write_outputs(outputs, is_row_format=True)
    assert json.loads(write_outputs(outputs, is_row_format=False))["outputs"]["y"] == [0, 0]
