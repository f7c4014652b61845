"""Walks the graph of operations of a Keras model with values of any kind in place of tensors."""

import dataclasses
import typing

import keras
from keras.src.models import Functional

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
    """

    operation: typing.Any
    inputs: tuple
    args: tuple = ()
    kwargs: dict = dataclasses.field(default_factory=dict)
    output_shape: tuple | None = None


def interpret(model, value, apply, is_leaf=lambda operation: False):
    """Carries an abstract value through a model, operation by operation.

    Walks operations, not layers: calls of `keras.ops` are in the graph as well. Nested models are walked in place, a
    layer that is used twice is visited twice, and each model begins with its input layer, which may cast.

    Args:
        model: A functional or Sequential `keras.Model` with one input and one output.
        value: What stands for the input; not a list, tuple or dict.
        apply: Function from a `Call` to the value of its output.
        is_leaf: Function that says of a nested model whether it is one operation, not to be walked.

    Returns:
        The value of the model's output.

    Raises:
        UnknownBoundError: If the model is a subclassed one, is not built, or has several inputs or outputs.

    Example:

    >>> interpret(model, 0, lambda call: call.inputs[0] + 1)  # the depth of a chain, its input included
    4
    """
    graph = _graph_of(model)
    entry = graph.inputs[0]
    values = {id(entry): apply(Call(entry._keras_history.operation, (value,), (value,), {}, entry.shape))}
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if node.is_input or id(node.outputs[0]) in values:
                continue
            inputs = tuple(values[id(tensor)] for tensor in node.input_tensors)
            operation = node.operation
            if isinstance(operation, keras.Model) and not is_leaf(operation):
                result = interpret(operation, inputs[0], apply, is_leaf)
            else:
                args, kwargs = node.arguments.fill_in(values)
                result = apply(Call(operation, inputs, tuple(args), kwargs, node.outputs[0].shape))
            values[id(node.outputs[0])] = result
    return values[id(graph.outputs[0])]


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
