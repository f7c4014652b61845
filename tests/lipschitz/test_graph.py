import keras
import pytest

from clustr_keras.lipschitz.graph import UnknownBoundError, interpret


def test_values_flow_along_the_edges():
    inputs = keras.Input((4,), name="image")
    left = keras.layers.Dense(4, name="left")(inputs)
    right = keras.layers.Dense(4, name="right")(keras.ops.relu(inputs))
    model = keras.Model(inputs, keras.layers.Add(name="sum")([left, right]))

    def apply(call):
        return f"{call.operation.name}({', '.join(call.inputs)})"

    assert interpret(model, "x", apply) == "sum(left(image(x)), right(relu(image(x))))"


def test_constants_and_shapes_reach_the_function():
    inputs = keras.Input((4,))
    seen = []
    interpret(keras.Model(inputs, keras.ops.multiply(inputs, 3.0)), "x", lambda call: seen.append(call) or "y")
    assert seen[1].args == ("y", 3.0)
    assert seen[1].output_shape == (None, 4)


def test_two_inputs_are_refused():
    first, second = keras.Input((4,)), keras.Input((4,))
    with pytest.raises(UnknownBoundError, match="2 inputs"):
        interpret(keras.Model([first, second], keras.layers.add([first, second])), "x", lambda call: "y")


def test_a_model_that_is_not_built_is_refused():
    with pytest.raises(UnknownBoundError, match="not built"):
        interpret(keras.Sequential([keras.layers.Dense(3)]), "x", lambda call: "y")
