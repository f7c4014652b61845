"""Which operations have a known bound, and how a user adds one."""

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import keras
import numpy as np

from clustr_keras.lipschitz.graph import Call, UnknownBoundError
from clustr_keras.types import ArrayLike, Floats, Tensor

FLOAT32_ROUNDOFF = 2.0**-24
# A product of float32 numbers that leaves the normal range may be flushed to zero.
FLOAT32_UNDERFLOW = 2.0**-126


@dataclasses.dataclass(frozen=True)
class Rounding:
    """What float32 evaluation of an operation `g` may add to its exact value, and how large `g` gets at all.

    `||fl(g(x)) - g(x)|| <= relative ||x|| + absolute` for every `x`, in any order of summation, with or without fused
    multiply-add, with subnormal numbers kept or flushed, as long as nothing overflows; and `||g(0)|| <= offset`.
    """

    relative: float = 0.0
    absolute: float = 0.0
    offset: float = 0.0


@dataclasses.dataclass(frozen=True)
class LayerBound:
    """Bound of one operation.

    Of an operation on several tensors `x_1, ..., x_m` it bounds `||g(x) - g(y)||` by `lipschitz` times `D`, where `D`
    is the sum (or the root of the sum of squares) of `factors[i] ||x_i - y_i||`, and `||x||` in its rounding stands
    for the sum (or root) of the `factors[i] ||x_i||`. Of an operation with several results it is one of each of them.

    Args:
        lipschitz: Upper bound of its l_2 Lipschitz constant.
        how: A few words on where the bound comes from.
        rounding: A `Rounding`, or `None` if there is no analysis of it.
        factors: One number per tensor; `None` for an operation on one tensor only.
        merging: `"sum"` or `"root"`.
    """

    lipschitz: float
    how: str
    rounding: Rounding | None = None
    factors: tuple[float, ...] | None = None
    merging: str = "sum"


BoundFunction: TypeAlias = Callable[[Call], LayerBound]
_REGISTRY: dict[type[keras.Operation], tuple[BoundFunction, bool]] = {}

# What to do about classes that have no bound, by name: they need not be imported for that.
_WAYS_OUT = {
    "LayerNormalization": "It divides by a standard deviation that may be as small as you like. Use BatchNormalization",
    "GroupNormalization": "It divides by a standard deviation that may be as small as you like. Use BatchNormalization",
    "RMSNormalization": "It divides by a norm that may be as small as you like. Use BatchNormalization",
    "UnitNormalization": "It divides by a norm that may be as small as you like. Use BatchNormalization",
    "Lambda": "Its code cannot be looked into. Write it with keras.ops, or as a layer of your own",
    "Multiply": "A product of two tensors is not Lipschitz. Multiply by a constant instead",
    "Dot": "A product of two tensors is not Lipschitz. Multiply by a constant instead",
    "Exp": "The exponential is not Lipschitz. Replace it",
    "Square": "The square is not Lipschitz. Replace it",
    **dict.fromkeys(
        ("Attention", "AdditiveAttention", "MultiHeadAttention", "GroupQueryAttention"),
        "Attention multiplies tensors with each other and is not Lipschitz. Replace it",
    ),
}


def register(
    operation_class: type[keras.Operation], one_lipschitz: bool = False
) -> Callable[[BoundFunction], BoundFunction]:
    """Decorator that registers the bound of a layer, operation or model class, your own included.

    Args:
        operation_class: A subclass of `keras.layers.Layer` or `keras.Operation`. Subclasses of it are not covered:
            they may compute something else.
        one_lipschitz: Boolean, whether the class is 1-Lipschitz in exact arithmetic whatever its weights are.

    Returns:
        A decorator for a function that takes a `Call` (its `operation` is the layer) and returns a `LayerBound`.

    Example:

    >>> @lipschitz.register(Halve, one_lipschitz=True)
    ... def halve_bound(call):
    ...     return lipschitz.LayerBound(0.5, "a factor")
    """

    def decorate(function):
        _REGISTRY[operation_class] = (function, one_lipschitz)
        return function

    return decorate


def is_registered(operation: keras.Operation) -> bool:
    """Whether the class of an operation has a bound of its own."""
    return type(operation) in _REGISTRY


def is_registered_as_one_lipschitz(operation: keras.Operation) -> bool:
    """Whether the class of an operation is 1-Lipschitz whatever its weights are."""
    return is_registered(operation) and _REGISTRY[type(operation)][1] and not casts_to_integers(operation)


def casts_to_integers(operation: keras.Operation) -> bool:
    """Whether a layer casts its inputs to integers, or its results: that is not continuous."""
    return isinstance(operation, keras.layers.Layer) and not (
        keras.backend.is_float_dtype(operation.compute_dtype) and keras.backend.is_float_dtype(operation.dtype)
    )


def layer_bound(call: Call) -> LayerBound:
    """The `LayerBound` of one call of an operation.

    Raises:
        UnknownBoundError: If there is none.
        ValueError: If a weight holds a NaN or an infinity.
    """
    operation = call.operation
    described = f"{type(operation).__name__} {operation.name!r}"
    if not is_registered(operation):
        way_out = _WAYS_OUT.get(type(operation).__name__, "Replace it")
        raise UnknownBoundError(
            f"no Lipschitz bound is known for {described}. {way_out}, or register one: "
            f"@lipschitz.register({type(operation).__name__})."
        )
    if isinstance(operation, keras.layers.Layer) and not isinstance(operation, keras.layers.InputLayer):
        if casts_to_integers(operation):
            raise UnknownBoundError(f"{described} casts to {operation.compute_dtype}, which is not continuous.")
        for weight in operation.weights:
            if not np.isfinite(as_array(weight)).all():
                raise ValueError(
                    f"{described}: its weight {weight.name!r} holds a NaN or an infinity, so has no bound."
                )
    if call.kwargs.get("mask") is not None:
        raise UnknownBoundError(f"{described} is called with a mask, for which no bound is known. Call it without.")
    try:
        of_layer = _REGISTRY[type(operation)][0](call)
    except UnknownBoundError:
        raise
    except ValueError as error:
        raise ValueError(f"{described}: {error}") from error
    # The analysis is one of IEEE float32 throughout; a cast from float64 would round as well.
    if isinstance(operation, keras.layers.Layer) and operation.compute_dtype != "float32":
        of_layer = dataclasses.replace(of_layer, rounding=None)
    return of_layer


def built_weight(layer: keras.layers.Layer, name: str) -> Floats:
    """The weight of a layer as a float64 array.

    Raises:
        UnknownBoundError: If the layer is not built, or its kernel is not what is stored.
    """
    if getattr(layer, "quantization_mode", None) is not None or getattr(layer, "lora_enabled", False):
        described = f"{type(layer).__name__} {layer.name!r}"
        raise UnknownBoundError(f"{described} is quantized or has LoRA weights; merge them first.")
    return used_weight(layer, name)


def optional_weight(layer: keras.layers.Layer, name: str) -> Floats | None:
    """`built_weight`, or `None` where the layer does without."""
    return None if getattr(layer, name) is None else built_weight(layer, name)


def used_weight(layer: keras.layers.Layer, name: str) -> Floats:
    """A weight of a layer, or what it computes from its weights, as a float64 array.

    Raises:
        UnknownBoundError: If the layer is not built.
    """
    if not layer.built:
        raise UnknownBoundError(
            f"{type(layer).__name__} {layer.name!r} is not built: it has no weights that a bound could hold for. Call "
            "it once, or its build()."
        )
    return as_array(getattr(layer, name), "float64")


def as_array(tensor: Tensor | ArrayLike, dtype: str | None = None) -> np.ndarray:
    """A NumPy array of a weight, tensor or number; a bfloat16 weight becomes float32."""
    array = np.asarray(keras.ops.convert_to_numpy(tensor))
    if array.dtype.kind not in "fiub":
        array = array.astype("float32")
    return array if dtype is None else array.astype(dtype)
