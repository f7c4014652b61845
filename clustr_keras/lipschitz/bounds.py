"""Proved upper bounds of the Lipschitz constant of a Keras model, and of the rounding of its float32 evaluation."""

import dataclasses

import keras
import numpy as np
from keras.src.layers.merging.base_merge import Merge

from clustr_keras.lipschitz.graph import Call, UnknownBoundError, interpret
from clustr_keras.lipschitz.registry import is_registered, is_registered_as_one_lipschitz, layer_bound
from clustr_keras.lipschitz.signals import Signal, merged
from clustr_keras.lipschitz.spectral import float32_upward
from clustr_keras.types import Shape


@dataclasses.dataclass(frozen=True)
class LipschitzBound:
    """A proved Lipschitz bound, as `lipschitz.bound` returns it.

    Args:
        value: The bound: a float64 that is a float32 number, rounded upward.
        table: Rows `(operation, bound, how)`.
        rounding_slope, rounding_intercept: Float32 evaluation of the model at `x` is off by at most
            `rounding_slope ||x|| + rounding_intercept` in l_2 norm, unless something overflows. `None` where no such
            analysis exists.
        peak_slope, peak_intercept: No value on the way is larger than `peak_slope ||x|| + peak_intercept`, where the
            rounding analysis exists.
    """

    value: float
    table: tuple[tuple[str, float, str], ...]
    rounding_slope: float | None = None
    rounding_intercept: float | None = None
    peak_slope: float | None = None
    peak_intercept: float | None = None

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        width = max((len(name) for name, _, _ in self.table), default=0)
        rows = [f"{name:<{width}}  {bound:<12.9g}  {how}" for name, bound, how in self.table]
        return "\n".join([*rows, f"{'in all':<{width}}  {self.value:<12.9g}"])


def bound(model_or_layer: keras.Model | keras.layers.Layer, input_shape: Shape | None = None) -> LipschitzBound:
    """Upper bound of the l_2 Lipschitz constant of a model, proved for its stored weights.

    Composed along the graph of operations, in float64, each bound inflated by its own rounding: the product along a
    chain, the sum where branches are added, the root of the sum of squares where they are concatenated. It is one of
    real arithmetic at inference.

    Args:
        model_or_layer: A functional or Sequential `keras.Model` of registered operations, with one input and one
            output, or one layer.
        input_shape: Shape of an input, as `keras.Input` takes it (a leading `None` is taken for the batch axis). For a
            layer on its own whose bound depends on it, and for a model that leaves sizes open.

    Returns:
        A `LipschitzBound`.

    Raises:
        UnknownBoundError: (a `ValueError`) If an operation has no known bound; it is named.
        ValueError: If a weight holds a NaN or an infinity, or the bound leaves float32's range.

    Example:

    >>> print(lipschitz.bound(model.backbone))
    >>> lipschitz.bound(keras.layers.AveragePooling2D(2), input_shape=(32, 32, 3)).value
    0.5
    """
    table = []
    shape = None if input_shape is None else _with_batch_axis(input_shape)

    def apply(call):
        of_layer = layer_bound(call)
        if not isinstance(call.operation, keras.layers.InputLayer):
            table.append((call.operation.name, of_layer.lipschitz, of_layer.how))
        if of_layer.factors is None:
            return _only_input(call).then(of_layer)
        return merged(call.inputs, of_layer.factors, of_layer.merging).then(of_layer)

    if isinstance(model_or_layer, keras.Model) and not is_registered(model_or_layer):
        signal = interpret(model_or_layer, Signal(), apply, is_registered, shape)
    else:
        signal = apply(_lone_call(model_or_layer, shape))
    if not signal.lipschitz <= float(np.finfo("float32").max):
        raise ValueError(
            f"the Lipschitz bound of {model_or_layer.name!r} is {signal.lipschitz:g}, beyond float32's range."
        )
    slope, intercept = signal.error or (None, None)
    return LipschitzBound(float32_upward(signal.lipschitz), tuple(table), slope, intercept, *signal.peak)


def is_one_lipschitz_by_construction(model: keras.Model) -> bool:
    """Whether every operation of a model is 1-Lipschitz in exact arithmetic, whatever its weights are.

    Args:
        model: A `keras.Model`.

    Returns:
        Boolean; `False` also where an operation has no known bound, or one that depends on its weights.

    Example:

    >>> is_one_lipschitz_by_construction(lipschitz_mlp((8, 8, 1)))
    True
    """

    def apply(call):
        if isinstance(call.operation, keras.layers.InputLayer):
            return _only_input(call) and keras.backend.is_float_dtype(call.operation.dtype)
        # Several tensors: the operation may be 1-Lipschitz in each and not in all of them.
        return _only_input(call) and call.kwargs.get("mask") is None and is_registered_as_one_lipschitz(call.operation)

    try:
        return interpret(model, True, apply, is_registered)
    except UnknownBoundError:
        return False


def _with_batch_axis(input_shape):
    shape = tuple(input_shape)
    return shape if shape and shape[0] is None else (None, *shape)


def _lone_call(layer, shape):
    """The call of a layer that stands alone."""
    if isinstance(layer, Merge):
        raise UnknownBoundError(
            f"{type(layer).__name__} {layer.name!r} takes several tensors, so has a bound only as part of a model."
        )
    if shape is None and layer.built:
        built_with = (layer.get_build_config() or {}).get("input_shape")
        shape = None if built_with is None else tuple(built_with)
    if shape is None:
        return Call(layer, (Signal(),), (Signal(),))
    return Call(layer, (Signal(),), (Signal(),), {}, tuple(layer.compute_output_shape(shape)), (shape,))


def _only_input(call):
    if len(call.inputs) != 1:
        raise UnknownBoundError(f"{call.operation.name!r} takes {len(call.inputs)} tensors; only one is known for it.")
    return call.inputs[0]
