"""Gradients in an image, steps along them for any scale of the logits, and loops of steps."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from clustr_keras.types import Tensor


def input_gradient(values: Tensor, x: Tensor, tape: tf.GradientTape) -> Tensor:
    """Gradient of the sum of `values` in `x`, zeros where the model has none; what is not finite is made so.

    Args:
        values: Floats `[B]`, recorded by `tape`.
        x: Floats `[B, H, W, C]`, watched by it.
        tape: `tf.GradientTape`.

    Returns:
        Floats like `x`: infinities as the largest number, 0 for what is not a number.
    """
    gradient = tape.gradient(values, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    gradient = tf.where(tf.math.is_nan(gradient), 0.0, gradient)
    return tf.clip_by_value(gradient, gradient.dtype.min, gradient.dtype.max)


def ascent_step(gradient: Tensor, step: Tensor, norm: str) -> Tensor:
    """The step of a given length that ascends most: along the signs in l_inf, along the gradient in l_2.

    Squares of a gradient below 1e-19 or above 1e19 leave the range of float32, so it is divided by its largest entry
    before its norm is taken: the step is the same for logits of any scale.

    Args:
        gradient: Floats `[B, H, W, C]`.
        step: Floats `[B, 1, 1, 1]`, length in the norm.
        norm: `"l_2"` or `"l_inf"`.

    Returns:
        Floats like `gradient`, 0 for an image whose gradient is 0.
    """
    if norm == "l_inf":
        return step * tf.sign(gradient)
    axes = tf.range(1, tf.rank(gradient))
    largest = tf.reduce_max(tf.abs(gradient), axes, keepdims=True)
    scaled = tf.math.divide_no_nan(gradient, largest)
    return step * tf.math.divide_no_nan(scaled, tf.sqrt(tf.reduce_sum(scaled**2, axes, keepdims=True)))


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of tensors as a graph, made once for any number of rows: to make it takes longer than to run it.

    Rows are along the first axis of the first tensor, and of each one that is as long there. Loops in the function are
    those of `repeated`.
    """
    graphs: dict[object, Callable[..., Any]] = {}

    def run(*values):
        tensors = [tf.convert_to_tensor(value) for value in values]
        rows = tensors[0].shape[0]
        specs = [tf.TensorSpec(_of_any_length(tensor.shape, rows), tensor.dtype) for tensor in tensors]
        key = tuple((tuple(spec.shape), spec.dtype) for spec in specs)
        if key not in graphs:
            graph = tf.function(lambda *inputs: function(*inputs), specs, autograph=False)
            graphs[key] = graph.get_concrete_function()
        return graphs[key](*tensors)

    return run


def _of_any_length(shape, rows):
    return [None, *shape[1:]] if shape.rank and shape[0] == rows else shape


def repeated(count: Tensor, step: Callable[..., tuple[Tensor, ...]], *state: Tensor) -> Any:
    """What `count` steps make of a state, in one compiled loop.

    AutoGraph makes the same of a `for` over `tf.range`, but takes seconds to rewrite the step and all that it calls.

    Args:
        count: Integer, or an int32 scalar.
        step: Function from the number of the step and the state to the next state, a tuple.
        *state: Tensors.

    Returns:
        A tuple like `state`.
    """

    def stepped(number, *state):
        return number + 1, *step(number, *state)

    return tf.while_loop(lambda number, *_: number < count, stepped, (0, *state))[1:]
