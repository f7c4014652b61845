"""Walks the graph of operations of a Keras model with values of any kind in place of tensors."""

import dataclasses
import typing
from collections.abc import Callable
from typing import Any

import keras
from keras.src.models import Functional

from clustr_keras.types import Shape

_PLAIN_CALL = keras.layers.Layer.__call__


class UnknownBoundError(ValueError):
    """An operation without a known Lipschitz bound; the message names it and says what can be done."""


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of an operation in the graph, with abstract values in place of tensors.

    Args:
        operation: The layer or operation that is called.
        inputs: Values of the tensors it takes, in order.
        args, kwargs: All its arguments, those values included.
        output_shape: Shape of what it returns, `None` for what is not known.
        input_shapes: Shapes of the tensors it takes, in order.
    """

    operation: typing.Any
    inputs: tuple
    args: tuple = ()
    kwargs: dict = dataclasses.field(default_factory=dict)
    output_shape: tuple | None = None
    input_shapes: tuple = ()


def interpret(
    model: keras.Model,
    value: Any,
    apply: Callable[[Call], Any],
    is_leaf: Callable[[keras.Operation], bool] = lambda operation: False,
    input_shape: Shape | None = None,
) -> Any:
    """Carries an abstract value through a model, operation by operation.

    Walks operations, not layers: calls of `keras.ops` are in the graph as well. Nested models are walked in place, a
    layer that is used twice is visited twice, and each model begins with its input layer, which may cast. Shapes are
    those of this use: a nested model made for any size sees the size that it gets here.

    Args:
        model: A functional or Sequential `keras.Model` with one input and one output.
        value: What stands for the input; not a list, tuple or dict.
        apply: Function from a `Call` to the value of its output.
        is_leaf: Function that says of a nested model whether it is one operation, not to be walked.
        input_shape: Shape of the model's input, batch axis included, where the model itself leaves it open.

    Returns:
        The value of the model's output.

    Raises:
        UnknownBoundError: If the model is a subclassed one, is not built, has several inputs or outputs, or calls a
            layer in training mode.
        ValueError: If `input_shape` contradicts the model.

    Example:

    >>> interpret(model, 0, lambda call: call.inputs[0] + 1)  # the depth of a chain, its input included
    4
    """
    return _walk(model, value, apply, is_leaf, input_shape)[0]


def _walk(model, value, apply, is_leaf, input_shape):
    graph = _graph_of(model)
    entry = graph.inputs[0]
    shape = _more_precise(model, tuple(entry.shape), input_shape)
    shapes = {id(entry): shape}
    values = {id(entry): apply(Call(entry._keras_history.operation, (value,), (value,), {}, shape, (shape,)))}
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if node.is_input or id(node.outputs[0]) in values:
                continue
            _refuse_training_mode(node)
            inputs = tuple(values[id(tensor)] for tensor in node.input_tensors)
            input_shapes = tuple(shapes[id(tensor)] for tensor in node.input_tensors)
            operation = node.operation
            if isinstance(operation, keras.Model) and not is_leaf(operation):
                result, output_shape = _walk(operation, inputs[0], apply, is_leaf, input_shapes[0])
                output_shapes = [output_shape]
            else:
                args, kwargs = node.arguments.fill_in(values)
                output_shapes = _output_shapes(node, input_shapes)
                result = apply(Call(operation, inputs, tuple(args), kwargs, output_shapes[0], input_shapes))
            for output, output_shape in zip(node.outputs, output_shapes, strict=True):
                values[id(output)] = result
                shapes[id(output)] = output_shape
    return values[id(graph.outputs[0])], shapes[id(graph.outputs[0])]


def _more_precise(model, shape, given):
    if given is None:
        return shape
    if len(given) != len(shape) or any(None not in (a, b) and a != b for a, b in zip(shape, given, strict=True)):
        raise ValueError(f"{model.name!r} takes inputs of shape {shape}, batch axis first; got {tuple(given)}.")
    return tuple(a if b is None else b for a, b in zip(shape, given, strict=True))


def _output_shapes(node, input_shapes):
    """Of one call, given the shapes that its inputs have in this walk."""
    if all(tuple(t.shape) == shape for t, shape in zip(node.input_tensors, input_shapes, strict=True)):
        return [tuple(output.shape) for output in node.outputs]
    stand_ins = {
        id(tensor): keras.KerasTensor(shape, tensor.dtype)
        for tensor, shape in zip(node.input_tensors, input_shapes, strict=True)
    }
    args, kwargs = node.arguments.fill_in(stand_ins)
    return [tuple(output.shape) for output in keras.tree.flatten(node.operation.compute_output_spec(*args, **kwargs))]


def _refuse_training_mode(node):
    if node.arguments.kwargs.get("training"):
        raise UnknownBoundError(
            f"{type(node.operation).__name__} {node.operation.name!r} is called with training=True, where its output "
            "depends on the batch or on chance. Call it without, so that it runs as at inference."
        )


def _graph_of(model):
    graph = getattr(model, "_functional", None) or model
    if not hasattr(graph, "_nodes_by_depth"):
        raise UnknownBoundError(
            f"{type(model).__name__} {model.name!r} has no graph of operations to walk: it is subclassed or not built. "
            "Build it from keras.Input, or register a bound for its class with lipschitz.register."
        )
    if type(model).call not in (Functional.call, keras.Sequential.call) or type(model).__call__ is not _PLAIN_CALL:
        raise UnknownBoundError(
            f"{type(model).__name__} {model.name!r} overrides call, so its graph does not tell what it computes. "
            "Use a plain keras.Model, or register a bound for its class with lipschitz.register."
        )
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise UnknownBoundError(
            f"{model.name!r} has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs; expected one of each."
        )
    return graph
