import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clustr_keras.serving import json_codec

FLOATS = hnp.arrays(
    st.sampled_from(["float16", "float32", "float64"]), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)
)
INTEGERS = hnp.arrays(st.sampled_from(["int8", "int64", "uint64", ">i4", "bool"]), hnp.array_shapes(max_dims=3))


@given(FLOATS | INTEGERS)
def test_arrays_come_back_as_they_were(array):
    read = json_codec.loads(json_codec.dumps({"inputs": {"x": array}}))["inputs"]["x"]
    np.testing.assert_array_equal(np.array(read, array.dtype).reshape(array.shape), array)


@given(FLOATS)
def test_other_readers_read_the_same(array):
    assert json.dumps(json.loads(json_codec.dumps({"x": array}))) == json.dumps(
        json_codec.loads(json_codec.dumps({"x": array}))
    )


def test_a_view_is_written_as_what_it_shows():
    array = np.arange(12, dtype="float32").reshape(3, 4)[:, ::2]
    assert json_codec.loads(json_codec.dumps({"x": array}))["x"] == array.tolist()


def test_strings_and_lone_surrogates():
    assert json_codec.loads(json_codec.dumps({"a": ["h\u00e9", "\n"], "b": "x"})) == {"a": ["h\u00e9", "\n"], "b": "x"}
    assert json_codec.loads(b'"\\ud800"') == "\ud800"


def test_not_a_number_and_infinities_are_read():
    value = json_codec.loads(b"[NaN, Infinity, -Infinity, 1]")
    assert math.isnan(value[0])
    assert value[1:] == [math.inf, -math.inf, 1]


@pytest.mark.parametrize("text", [b"", b"{", b"nul", b"\xff", b'{"a": 1,}', b"[1] 2"])
def test_what_is_not_json_is_an_error(text):
    with pytest.raises(ValueError):  # noqa: PT011 - both libraries' errors are ValueErrors, of other words
        json_codec.loads(text)
