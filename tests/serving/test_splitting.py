import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from clustr_keras.serving.errors import ServingError
from clustr_keras.serving.splitting import join, row_bytes, split


def ask(inputs):  # a server that works by example
    names = np.array([f"{len(file)}:{x[0]}".encode() for file, x in zip(*inputs.values(), strict=True)], dtype=object)
    return {"sum": inputs["x"].sum(1), "names": names}


@st.composite
def batches(draw):
    rows = draw(st.integers(1, 40))
    files = draw(st.lists(st.binary(max_size=30), min_size=rows, max_size=rows))
    x = draw(arrays.arrays(np.float32, (rows, 3), elements=st.integers(-9, 9)))
    return {"files": np.array([*files, None], dtype=object)[:-1], "x": x}


limits = {"max_rows": st.integers(1, 50), "max_bytes": st.integers(1, 200)}


@given(inputs=batches(), **limits)
def test_parts_within_any_limits_give_the_answer_of_the_whole(inputs, max_rows, max_bytes):
    sizes = sum(row_bytes(array, 4, len) for array in inputs.values())
    parts = list(split(inputs, sizes, max_rows, max_bytes))
    joined, whole = join([ask(part) for part in parts], len(sizes)), ask(inputs)
    assert joined.keys() == whole.keys()
    for name in whole:
        np.testing.assert_array_equal(joined[name], whole[name], strict=True)


@given(sizes=st.lists(st.integers(0, 99), min_size=1, max_size=40), **limits)
def test_parts_are_as_large_as_the_limits_allow(sizes, max_rows, max_bytes):
    parts = [part["i"] for part in split({"i": np.arange(len(sizes))}, np.array(sizes), max_rows, max_bytes)]
    assert np.concatenate(parts).tolist() == list(range(len(sizes)))
    weights = [sum(sizes[i] for i in part) for part in parts]
    for number, part in enumerate(parts):
        assert len(part) == 1 or (len(part) <= max_rows and weights[number] <= max_bytes)
        if number + 1 < len(parts):  # the next row would have been too much
            assert len(part) == max_rows or weights[number] + sizes[parts[number + 1][0]] > max_bytes


def test_row_bytes():
    assert row_bytes(np.zeros((2, 3, 5), np.float64), 8, len).tolist() == [120, 120]
    assert row_bytes(np.array([b"", b"abc"], dtype=object), 8, len).tolist() == [0, 3]
    assert row_bytes(np.array([["a", "bc"], ["d", "e"]], dtype=object), 8, len).tolist() == [3, 2]


def test_an_output_that_is_not_by_example_is_named():
    for answers in ([{"mean": np.float32(1)}], [{"mean": np.ones(3)}], [{"mean": np.ones(2)}, {"mean": np.ones(3)}]):
        with pytest.raises(ServingError, match=r'"mean" has shape .* for 4 examples.*call\(\)') as caught:
            join(answers, 4)
        assert caught.value.code == "FAILED_PRECONDITION"


@pytest.mark.parametrize("other", [{"y": np.ones((2, 3))}, {"x": np.ones((2, 4))}])
def test_answers_of_different_versions_do_not_fit_together(other):
    with pytest.raises(ServingError, match="the model's version changed between them") as caught:
        join([{"x": np.ones((2, 3))}, other], 4)
    assert caught.value.code == "ABORTED"
