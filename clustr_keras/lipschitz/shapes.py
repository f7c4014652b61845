"""What the shapes at a call say: sizes, repetition by broadcasting, which operand is a constant."""

import math
from collections.abc import Iterable, Sequence

import keras
import numpy as np

from clustr_keras.lipschitz.graph import Call, UnknownBoundError
from clustr_keras.lipschitz.registry import as_array
from clustr_keras.lipschitz.signals import up
from clustr_keras.types import Floats, Shape


def known_shape(call: Call) -> Shape:
    """The shape of one example at the input of a call, `None` for sizes that are open.

    Raises:
        UnknownBoundError: If it is not known at all.
    """
    if not call.input_shapes:
        raise UnknownBoundError(
            f"the bound of {type(call.operation).__name__} {call.operation.name!r} depends on the shape of its input. "
            "Pass input_shape."
        )
    return tuple(call.input_shapes[0][1:])


def sizes_along(call: Call, axes: Iterable[int]) -> list[int]:
    """Sizes of the input along some axes (batch axis counted), all known.

    Raises:
        UnknownBoundError: If one is open.
    """
    known_shape(call)
    sizes = [call.input_shapes[0][axis] for axis in axes]
    if None in sizes:
        raise UnknownBoundError(
            f"the bound of {type(call.operation).__name__} {call.operation.name!r} depends on a size that the model "
            "leaves open. Pass input_shape."
        )
    return sizes


def entries(shape: Shape | None) -> int | None:
    """How many entries one example of a shape has, `None` where that is not known."""
    if shape is None:
        return None
    sizes = [size for size in shape[1:] if size is not None]
    return math.prod(sizes) if len(sizes) == len(shape) - 1 else None


def spatial_axes(layer: keras.layers.Layer, rank: int) -> range:
    """Axes of the spatial dimensions of a layer with a `data_format`."""
    first = 1 if layer.data_format == "channels_last" else 2
    return range(first, first + rank)


def within_example(call: Call, axes: int | Sequence[int] | None) -> list[int]:
    """Axes as a sorted list of non-negative ones, `None` for all.

    Raises:
        UnknownBoundError: If the batch axis is among them.
    """
    known_shape(call)
    rank = len(call.input_shapes[0])
    axes = range(rank) if axes is None else (axes if isinstance(axes, Sequence) else [axes])
    axes = sorted({axis % rank for axis in axes})
    if 0 in axes:
        raise UnknownBoundError(
            f"{type(call.operation).__name__} {call.operation.name!r} acts along the batch axis and mixes examples. "
            "Name other axes."
        )
    return axes


def repetition(call: Call, input_shape: Shape | None) -> float:
    """`sqrt(k)` for an input of which each entry appears k times in the result.

    Raises:
        UnknownBoundError: If that cannot be told from the shapes.
    """
    inputs, outputs = entries(input_shape), entries(call.output_shape)
    if inputs is None or outputs is None:
        raise UnknownBoundError(
            f"{type(call.operation).__name__} {call.operation.name!r} may repeat entries, which cannot be told from "
            f"the shapes {input_shape} and {call.output_shape}. Pass input_shape."
        )
    return 1.0 if inputs == outputs else up(math.sqrt(outputs / inputs))


def constant_operand(call: Call, problem: str) -> tuple[Floats, bool]:
    """The constant of an operation on one tensor and one constant, in float64, and whether it comes first.

    Raises:
        UnknownBoundError: With `problem`, if both are tensors.
        ValueError: If the constant holds a NaN or an infinity.
    """
    name = f"{type(call.operation).__name__} {call.operation.name!r}"
    operands = [*call.args, *call.kwargs.values()]
    if len(call.inputs) != 1 or len(operands) != 2:
        raise UnknownBoundError(f"{name}: {problem}.")
    known_shape(call)
    is_first = operands[1] is call.inputs[0]
    constant = as_array(operands[0 if is_first else 1], "float64")
    if not np.isfinite(constant).all():
        raise ValueError("its constant holds a NaN or an infinity, so has no bound.")
    return constant, is_first


def broadcast_repetition(call: Call, constant: Floats) -> float:
    """`sqrt(k)`, where broadcasting against a constant makes k copies of each entry of the input.

    Raises:
        UnknownBoundError: If the constant reaches into the batch axis, or sizes are open.
    """
    shape = (None, *known_shape(call))
    constant_shape = np.shape(constant)
    if len(constant_shape) > len(shape) or (len(constant_shape) == len(shape) and constant_shape[0] != 1):
        raise UnknownBoundError(
            f"{type(call.operation).__name__} {call.operation.name!r} has a constant of shape {constant_shape} for an "
            f"input of shape {shape}, which mixes examples. Give it a shape without the batch axis."
        )
    copies = 1
    for axis in range(1, min(len(constant_shape), len(shape) - 1) + 1):
        if constant_shape[-axis] != 1:
            (size,) = sizes_along(call, [-axis])
            copies *= constant_shape[-axis] if size == 1 else 1
    return 1.0 if copies == 1 else up(math.sqrt(copies))
