"""Bounds of operations that move, copy or drop entries, and of layers that do nothing at inference."""

import math

import keras
import numpy as np
from keras.src.ops import core as ops_core
from keras.src.ops import numpy as ops_numpy

from clustr_keras.lipschitz.graph import Call, UnknownBoundError
from clustr_keras.lipschitz.layers import MaxMin
from clustr_keras.lipschitz.registry import (
    FLOAT32_UNDERFLOW,
    LayerBound,
    Rounding,
    casts_to_integers,
    layer_bound,
    register,
)
from clustr_keras.lipschitz.shapes import known_shape, within_example
from clustr_keras.lipschitz.signals import root_upward, up


def _exact(how, copies=1):
    return LayerBound(root_upward([1.0] * copies), how, Rounding())


def _always(how):
    def of_layer(_):
        return _exact(how)

    return of_layer


def _refuse_batch_axis(call):
    raise UnknownBoundError(
        f"{type(call.operation).__name__} {call.operation.name!r} may move entries from one example to another. "
        "Leave the batch axis as it is."
    )


@register(keras.layers.InputLayer)
def _of_input(call):
    layer, shape = call.operation, call.output_shape
    if casts_to_integers(layer):
        raise UnknownBoundError(
            f"the input {layer.name!r} casts images to {layer.dtype}, which is not continuous. Use a float32 input."
        )
    rounding = None
    if None not in shape[1:] and layer.dtype == "float32":
        # Subnormal pixels may be flushed to zero.
        rounding = Rounding(absolute=up(FLOAT32_UNDERFLOW * math.sqrt(math.prod(shape[1:]))))
    return LayerBound(1.0, "the input", rounding)


register(MaxMin, one_lipschitz=True)(_always("a permutation chosen by the input"))
for _layer_class in (
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.Permute,
    keras.layers.Identity,
    keras.layers.ZeroPadding1D,
    keras.layers.ZeroPadding2D,
    keras.layers.ZeroPadding3D,
    keras.layers.Cropping1D,
    keras.layers.Cropping2D,
    keras.layers.Cropping3D,
):
    register(_layer_class, one_lipschitz=True)(_always("moves entries"))
for _layer_class in (
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.AlphaDropout,
    keras.layers.GaussianNoise,
    keras.layers.GaussianDropout,
    keras.layers.ActivityRegularization,
):
    register(_layer_class, one_lipschitz=True)(_always("identity at inference"))


@register(keras.layers.RepeatVector)
def _of_repeat_vector(call):
    return _exact(f"{call.operation.n} copies", call.operation.n)


@register(keras.layers.TimeDistributed)
def _of_time_distributed(call):
    """The same layer at every step: the norm of the sum over steps is the layer's own."""
    _, *rest = known_shape(call)
    batch, _, *results = call.output_shape
    inner = Call(call.operation.layer, call.inputs, call.inputs, {}, (batch, *results), ((batch, *rest),))
    of_layer = layer_bound(inner)
    return LayerBound(of_layer.lipschitz, f"at every step: {of_layer.how}")


@register(ops_numpy.Reshape)
@register(ops_numpy.Ravel)
def _of_reshape(call):
    before, after = call.input_shapes[0], call.output_shape
    known = None not in (*before[1:], *after[1:])
    if not known or before[0] != after[0] or math.prod(before[1:]) != math.prod(after[1:]):
        _refuse_batch_axis(call)
    return _exact("moves entries")


@register(ops_numpy.Transpose)
def _of_transpose(call):
    axes, rank = call.operation.axes, len(call.input_shapes[0])
    if rank > 1 and (axes is None or axes[0] % rank != 0):
        _refuse_batch_axis(call)
    return _exact("moves entries")


@register(ops_numpy.Swapaxes)
@register(ops_numpy.Moveaxis)
def _of_exchange(call):
    operation = call.operation
    if isinstance(operation, ops_numpy.Swapaxes):
        within_example(call, [operation.axis1, operation.axis2])
    else:
        within_example(call, [*operation.source, *operation.destination])
    return _exact("moves entries")


@register(ops_numpy.Squeeze)
@register(ops_numpy.Flip)
@register(ops_numpy.Split)
@register(ops_numpy.Roll)
def _of_axes(call):
    within_example(call, call.operation.axis)
    return _exact("moves entries")


@register(ops_numpy.ExpandDims)
def _of_expand_dims(call):
    axes = call.operation.axis if isinstance(call.operation.axis, list | tuple) else [call.operation.axis]
    if any(axis % len(call.output_shape) == 0 for axis in axes):
        _refuse_batch_axis(call)
    return _exact("moves entries")


@register(ops_numpy.Pad)
def _of_pad(call):
    operation = call.operation
    widths = operation.pad_width
    if operation.mode != "constant" or len(widths) != len(call.input_shapes[0]) or any(widths[0]):
        raise UnknownBoundError(
            f"{operation.name!r} pads with mode {operation.mode!r} by {widths}; known is mode 'constant' with nothing "
            "added along the batch axis."
        )
    # Rounding is left out for other values than 0, which the norm of the output would have to count.
    value = call.kwargs.get("constant_values", call.args[1] if len(call.args) > 1 else None)
    return LayerBound(1.0, "pads", Rounding() if value is None or np.all(np.asarray(value) == 0) else None)


@register(ops_numpy.Repeat)
def _of_repeat(call):
    operation = call.operation
    if operation.axis is None or not isinstance(operation.repeats, int):
        raise UnknownBoundError(f"{operation.name!r} needs an axis and one number of repeats to have a known bound.")
    within_example(call, operation.axis)
    return _exact(f"{operation.repeats} copies", operation.repeats)


@register(ops_numpy.Tile)
def _of_tile(call):
    repeats = np.atleast_1d(call.operation.repeats)
    rank = len(call.input_shapes[0])
    if len(repeats) > rank or (len(repeats) == rank and repeats[0] != 1):
        _refuse_batch_axis(call)
    copies = int(np.prod(repeats))
    return _exact(f"{copies} copies", copies)


@register(ops_numpy.GetItem)
def _of_get_item(call):
    """Slices and single entries take each entry at most once."""
    key = call.kwargs.get("key", call.args[1] if len(call.args) > 1 else None)
    key = list(key) if isinstance(key, list | tuple) else [key]
    if not all((isinstance(k, int | slice) and not isinstance(k, bool)) or k is Ellipsis or k is None for k in key):
        raise UnknownBoundError(f"{call.operation.name!r} picks entries by a list or array; use slices.")
    takes_every_example = key[0] is Ellipsis or key[0] == slice(None)
    # An ellipsis in front stands for no axis at all where the others name them all.
    named = sum(isinstance(k, int | slice) for k in key)
    if not takes_every_example or (key[0] is Ellipsis and named >= len(known_shape(call)) + 1):
        _refuse_batch_axis(call)
    return _exact("takes entries")


@register(ops_core.Cast)
def _of_cast(call):
    if not keras.backend.is_float_dtype(call.operation.dtype):
        raise UnknownBoundError(f"a cast to {call.operation.dtype} is not continuous. Cast to a float type.")
    return LayerBound(1.0, "a cast")
