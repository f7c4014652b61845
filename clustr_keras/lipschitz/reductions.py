"""Bounds of sums, means and maxima over axes."""

import math

from keras.src.ops import numpy as ops_numpy

from clustr_keras.lipschitz.registry import LayerBound, Rounding, register
from clustr_keras.lipschitz.shapes import sizes_along, within_example
from clustr_keras.lipschitz.signals import up


@register(ops_numpy.Sum)
def _of_sum(call):
    """`|sum of n entries| <= sqrt(n)` times their norm."""
    size = math.prod(sizes_along(call, within_example(call, call.operation.axis)))
    return LayerBound(up(math.sqrt(size)), f"a sum of {size}")


@register(ops_numpy.Mean)
def _of_mean(call):
    size = math.prod(sizes_along(call, within_example(call, call.operation.axis)))
    return LayerBound(up(1.0 / math.sqrt(size)), f"a mean of {size}")


@register(ops_numpy.Max)
@register(ops_numpy.Min)
@register(ops_numpy.Amax)
@register(ops_numpy.Amin)
def _of_extremum(call):
    within_example(call, call.operation.axis)
    return LayerBound(1.0, "an extremum", Rounding() if getattr(call.operation, "initial", None) is None else None)
