"""Bounds of operations on several tensors: sums, concatenation, maximum; and of sums with a constant."""

import keras
from keras.src.ops import numpy as ops_numpy

from clustr_keras.lipschitz.graph import UnknownBoundError
from clustr_keras.lipschitz.registry import FLOAT32_ROUNDOFF, LayerBound, Rounding, register
from clustr_keras.lipschitz.shapes import broadcast_repetition, constant_operand, repetition, within_example
from clustr_keras.lipschitz.signals import up
from clustr_keras.lipschitz.spectral import gamma


def _repetitions(call):
    return tuple(repetition(call, shape) for shape in call.input_shapes)


def _of_sum(call):
    # Partial sums of m terms have m - 1 roundings; what would be subnormal is exact, or flushed where its terms were.
    rounding = Rounding(relative=up(gamma(max(1, len(call.inputs) - 1), FLOAT32_ROUNDOFF)), absolute=1e-30)
    return LayerBound(1.0, f"sum of {len(call.inputs)} branches", rounding, _repetitions(call))


register(keras.layers.Add)(_of_sum)
register(keras.layers.Subtract)(_of_sum)


@register(keras.layers.Average)
def _of_average(call):
    count = len(call.inputs)
    # The sum has count - 1 roundings; dividing has one, and two where the compiler multiplies by the reciprocal.
    rounding = Rounding(relative=up(gamma(count + 1, FLOAT32_ROUNDOFF) / count), absolute=1e-30)
    return LayerBound(up(1.0 / count), f"mean of {count} branches", rounding, _repetitions(call))


@register(keras.layers.Maximum)
@register(keras.layers.Minimum)
def _of_extremum(call):
    """`|max(a, b) - max(c, d)| <= max(|a - c|, |b - d|)`, whose square is at most the sum of both squares."""
    return LayerBound(1.0, f"extremum of {len(call.inputs)} branches", None, _repetitions(call), "root")


@register(keras.layers.Concatenate)
@register(ops_numpy.Concatenate)
@register(ops_numpy.Stack)
def _of_concatenation(call):
    if isinstance(call.operation, ops_numpy.Stack):
        if call.operation.axis % len(call.output_shape) == 0:
            raise UnknownBoundError(f"{call.operation.name!r} stacks along the batch axis. Choose another axis.")
    else:
        within_example(call, call.operation.axis)
    return LayerBound(1.0, f"{len(call.inputs)} branches side by side", Rounding(), (1.0,) * len(call.inputs), "root")


def _of_two(of_tensors):
    """Of an operation on two tensors, or one and a constant, which then only shifts or bounds the other."""

    def of_operation(call):
        if len(call.inputs) == 2:
            if len(call.input_shapes[0]) != len(call.input_shapes[1]):
                raise UnknownBoundError(
                    f"{call.operation.name!r} broadcasts tensors of shapes {call.input_shapes}, which may mix "
                    "examples. "
                    "Give them the same rank."
                )
            return of_tensors(call)
        constant, _ = constant_operand(call, "no bound is known for these arguments")
        return LayerBound(broadcast_repetition(call, constant), "with a constant")

    return of_operation


register(ops_numpy.Add)(_of_two(_of_sum))
register(ops_numpy.Subtract)(_of_two(_of_sum))
register(ops_numpy.Maximum)(_of_two(_of_extremum))
register(ops_numpy.Minimum)(_of_two(_of_extremum))
