import numpy as np
import pytest
import tensorflow as tf

from clustr_keras.serving.errors import ServingError
from clustr_keras.serving.loaded_model import LoadedModel


@pytest.fixture(scope="module")
def toy(toy_dir):
    return LoadedModel(toy_dir / "2", version=2)


@pytest.fixture(scope="module")
def clustr(clustr_dir):
    return LoadedModel(clustr_dir / "1", version=1)


def refused(code, match):
    return pytest.raises(ServingError, match=f"(?s)^{code}: .*{match}")


def test_runs_the_default_signature(toy):
    outputs = toy.run("", {"x": np.float32([1, 2, 5])})
    np.testing.assert_array_equal(outputs["y"], np.float32([2.5, 3, 4.5]), strict=True)


def test_an_input_with_a_default_may_be_left_out(toy):
    assert toy.run("scaled", {"x": np.float32([1, 2])})["y"].tolist() == [10, 20]
    assert toy.run("scaled", {"x": np.float32([1, 2]), "scale": np.float32(3)})["y"].tolist() == [3, 6]


def test_output_filter_chooses_outputs(clustr):
    images = np.zeros((2, 4, 4, 1), np.float32)
    assert set(clustr.run("", {"images": images}, ["class_ids", "is_valid"])) == {"class_ids", "is_valid"}


def test_strings_come_back_as_bytes(toy):
    outputs = toy.run("binary", {"data": np.array([b"a\xffb"], dtype=object)})
    assert outputs["reversed_bytes"].tolist() == [b"b\xffa"]


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        ({}, r"missing: \['x'\]"),
        ({"x": np.zeros(1, np.float32), "z": np.zeros(1)}, r"not inputs of this signature: \['z'\]"),
        ({"x": np.zeros(1, np.float64)}, r'"x" must be float32 of shape \[\?\]; got float64 of shape \[1\]'),
        ({"x": np.array([b"1"], dtype=object)}, "got string"),
        ({"x": np.zeros((1, 1), np.float32)}, r"got float32 of shape \[1, 1\]"),
        ({"x": np.zeros((), np.float32)}, r"got float32 of shape \[\]"),
    ],
)
def test_inputs_that_are_not_the_signatures_are_refused(toy, inputs, match):
    with refused("INVALID_ARGUMENT", match):
        toy.run("", inputs)


def test_inputs_of_different_lengths_are_refused(clustr):
    with refused("INVALID_ARGUMENT", "same number of examples"):
        clustr.run("certify_at", {"images": np.zeros((2, 4, 4, 1), np.float32), "radius": np.zeros(3, np.float32)})


@pytest.mark.parametrize("output_filter", [["nope"], ["y", "y"]])
def test_a_wrong_output_filter_is_refused(toy, output_filter):
    with refused("INVALID_ARGUMENT", r"outputs of this signature: \['y'\]"):
        toy.run("", {"x": np.zeros(1, np.float32)}, output_filter)


@pytest.mark.parametrize("name", ["nope", "__saved_model_init_op"])
def test_an_unknown_signature_is_a_failed_precondition(toy, name):
    with refused("FAILED_PRECONDITION", "serving_default"):
        toy.run(name, {})


@pytest.mark.parametrize("shape", [(1, 5, 4, 1), (1, 4, 4, 3)])
def test_ensure_shape_in_the_graph_is_an_invalid_argument(clustr, shape):
    with refused("INVALID_ARGUMENT", "not compatible with expected shape") as caught:
        clustr.run("certify", {"images": np.zeros(shape, np.float32)})
    assert "stack traces" not in caught.value.message
    assert "{{node" not in caught.value.message


def test_a_model_of_tensorflow_1_is_served(tmp_path):
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
        x = tf.compat.v1.placeholder(tf.float32, [None])
        y = x * tf.compat.v1.get_variable("v", initializer=3.0)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.saved_model.simple_save(session, str(tmp_path / "1"), {"x": x}, {"y": y})
    outputs = LoadedModel(tmp_path / "1", version=1).run("", {"x": np.float32([1, 2])})
    assert outputs["y"].tolist() == [3, 6]


def test_json_dtypes_are_those_of_the_signature(toy):
    assert toy.json_dtypes("three_inputs") == {"tag": object, "signal": np.float32, "sensor": np.int64}
