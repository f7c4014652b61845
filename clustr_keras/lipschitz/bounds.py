"""Proved upper bounds of the Lipschitz constant of a Keras model, and of the rounding of its float32 evaluation."""

import dataclasses
import math
from fractions import Fraction

import keras
import numpy as np

from clustr_keras.lipschitz.graph import Call, UnknownBoundError, interpret
from clustr_keras.lipschitz.layers import MaxMin, OrthogonalDense
from clustr_keras.lipschitz.spectral import gamma, spectral_norm_bound

FLOAT32_ROUNDOFF = 2.0**-24
# A product of float32 numbers that leaves the normal range may be flushed to zero.
FLOAT32_UNDERFLOW = 2.0**-126


@dataclasses.dataclass(frozen=True)
class Rounding:
    """What float32 evaluation of an operation `g` may add to its exact value, and how large `g` gets at all.

    `||fl(g(x)) - g(x)|| <= relative ||x|| + absolute` for every `x`, in any order of summation, with or without fused
    multiply-add, with subnormal numbers kept or flushed; and `||g(0)|| <= offset`.
    """

    relative: float = 0.0
    absolute: float = 0.0
    offset: float = 0.0


@dataclasses.dataclass(frozen=True)
class LayerBound:
    """Bound of one operation.

    Args:
        lipschitz: Upper bound of its l_2 Lipschitz constant.
        how: A few words on where the bound comes from.
        rounding: A `Rounding`, or `None` if there is no analysis of it.
    """

    lipschitz: float
    how: str
    rounding: Rounding | None = None


@dataclasses.dataclass(frozen=True)
class LipschitzBound:
    """A proved Lipschitz bound, as `lipschitz.bound` returns it.

    Args:
        value: The bound: a float64 that is a float32 number, rounded upward.
        table: Rows `(operation, bound, how)`.
        rounding_slope, rounding_intercept: Float32 evaluation of the model at `x` is off by at most
            `rounding_slope ||x|| + rounding_intercept` in l_2 norm. `None` where no such analysis exists.
    """

    value: float
    table: tuple[tuple[str, float, str], ...]
    rounding_slope: float | None = None
    rounding_intercept: float | None = None

    def __float__(self):
        return self.value

    def __str__(self):
        width = max((len(name) for name, _, _ in self.table), default=0)
        rows = [f"{name:<{width}}  {bound:<12.9g}  {how}" for name, bound, how in self.table]
        return "\n".join([*rows, f"{'in all':<{width}}  {self.value:<12.9g}"])


_REGISTRY = {}


def register(operation_class, one_lipschitz=False):
    """Decorator that registers the bound of a layer or operation class, your own included.

    Args:
        operation_class: A subclass of `keras.layers.Layer` or `keras.Operation`. Subclasses of it are not covered:
            they may compute something else.
        one_lipschitz: Boolean, whether the class is 1-Lipschitz in exact arithmetic whatever its weights are.

    Returns:
        A decorator for a function `f(layer)` that returns a `LayerBound`.

    Example:

    >>> @lipschitz.register(Halve, one_lipschitz=True)
    ... def halve_bound(layer):
    ...     return lipschitz.LayerBound(0.5, "a factor")
    """

    def decorate(function):
        _REGISTRY[operation_class] = (function, one_lipschitz)
        return function

    return decorate


def bound(model):
    """Upper bound of the l_2 Lipschitz constant of a model, proved for its stored weights.

    The product of the bounds of the operations along the graph, in float64, each inflated by its own rounding.

    Args:
        model: A functional or Sequential `keras.Model` of registered operations, or one layer.

    Returns:
        A `LipschitzBound`.

    Raises:
        UnknownBoundError: (a `ValueError`) If an operation has no known bound; it is named.
        ValueError: If a weight holds a NaN or an infinity.

    Example:

    >>> print(lipschitz.bound(model.backbone))
    """
    table = []

    def apply(call):
        of_layer = _layer_bound(call.operation)
        table.append((call.operation.name, of_layer.lipschitz, of_layer.how))
        return _only_input(call).then(of_layer)

    start = _Signal()
    signal = interpret(model, start, apply) if isinstance(model, keras.Model) else apply(Call(model, (start,)))
    analysed = signal.error is not None
    return LipschitzBound(
        value=_float32_upward(signal.lipschitz),
        table=tuple(table),
        rounding_slope=signal.error[0] if analysed else None,
        rounding_intercept=signal.error[1] if analysed else None,
    )


def is_one_lipschitz_by_construction(model):
    """Whether every operation of a model is 1-Lipschitz in exact arithmetic, whatever its weights are."""

    def apply(call):
        return _only_input(call) and _REGISTRY.get(type(call.operation), (None, False))[1]

    try:
        return interpret(model, True, apply)
    except UnknownBoundError:
        return False


@dataclasses.dataclass(frozen=True)
class _Signal:
    """Of the map from the model's input to one tensor: Lipschitz bound, and affine bounds of norm and rounding error.

    With `n` the norm of the input: exact value at most `norm[0] n + norm[1]`, error at most `error[0] n + error[1]`.
    """

    lipschitz: float = 1.0
    norm: tuple[float, float] = (1.0, 0.0)
    error: tuple[float, float] | None = (0.0, 0.0)

    def then(self, layer):
        if not math.isfinite(layer.lipschitz):
            raise UnknownBoundError(f"the bound of an operation is {layer.lipschitz}; it is not Lipschitz.")
        lipschitz = _product_upward(self.lipschitz, layer.lipschitz)
        norm = (_up(layer.lipschitz * self.norm[0]), self.norm[1] * layer.lipschitz)
        error = None
        if self.error is not None and layer.rounding is not None:
            rounding = layer.rounding
            norm = (norm[0], _up(norm[1] + rounding.offset))
            # An error made before is stretched by the layer, whose own error is that at the rounded value.
            error = tuple(
                _up(layer.lipschitz * e + rounding.relative * (n + e))
                for n, e in zip(self.norm, self.error, strict=True)
            )
            error = (error[0], _up(error[1] + rounding.absolute))
        return _Signal(lipschitz, norm, error)


def _layer_bound(operation):
    if type(operation) not in _REGISTRY:
        raise UnknownBoundError(
            f"no Lipschitz bound is known for {type(operation).__name__} {operation.name!r}. "
            f"Replace it, or register one: @lipschitz.register({type(operation).__name__})."
        )
    try:
        of_layer = _REGISTRY[type(operation)][0](operation)
    except UnknownBoundError:
        raise
    except ValueError as error:
        raise ValueError(f"{type(operation).__name__} {operation.name!r}: {error}") from error
    # The analysis is one of IEEE float32; in a wider format the same bounds hold.
    if isinstance(operation, keras.layers.Layer) and operation.compute_dtype not in ("float32", "float64"):
        of_layer = dataclasses.replace(of_layer, rounding=None)
    return of_layer


def _only_input(call):
    if len(call.inputs) != 1:
        raise UnknownBoundError(f"{call.operation.name!r} takes {len(call.inputs)} tensors; only one is known for it.")
    return call.inputs[0]


def _up(value):
    """A float64 that is no smaller than the exact result of the few operations that led to `value >= 0`."""
    return value * (1.0 + 2.0**-50)


def _product_upward(a, b):
    product = a * b
    return product if Fraction(product) >= Fraction(a) * Fraction(b) else math.nextafter(product, math.inf)


def _float32_upward(value):
    rounded = np.float32(value)
    return float(rounded if float(rounded) >= value else np.nextafter(rounded, np.float32(np.inf)))


_ACTIVATIONS = {
    keras.activations.linear: (1.0, True),
    keras.activations.relu: (1.0, True),
    keras.activations.tanh: (1.0, False),
    keras.activations.sigmoid: (0.25, False),
}


def activation_bound(activation):
    """Bound of a Keras activation function; the linear one and ReLU are computed without rounding."""
    if activation not in _ACTIVATIONS:
        name = getattr(activation, "__name__", type(activation).__name__)
        known = ", ".join(function.__name__ for function in _ACTIVATIONS)
        raise UnknownBoundError(f"no Lipschitz bound is known for the activation {name!r}. Known: {known}.")
    lipschitz, is_exact = _ACTIVATIONS[activation]
    return LayerBound(lipschitz, activation.__name__, Rounding() if is_exact else None)


def _dense_bound(kernel, bias, how):
    """Bound of `x -> x @ kernel + bias`, and of its rounding: `gamma_(n+1) (|| |W| ||_2 ||x|| + ||b||)`."""
    kernel = np.asarray(kernel, dtype="float64")
    bias_norm = 0.0 if bias is None else _up(float(np.linalg.norm(np.asarray(bias, dtype="float64"))))
    error = gamma(kernel.shape[0] + 1, FLOAT32_ROUNDOFF)
    underflow = FLOAT32_UNDERFLOW * (kernel.shape[0] + 1) * math.sqrt(kernel.shape[1])
    rounding = Rounding(
        relative=_up(error * spectral_norm_bound(np.abs(kernel))),
        absolute=_up(error * bias_norm + 2.0 * underflow),
        offset=bias_norm,
    )
    return LayerBound(spectral_norm_bound(kernel), how, rounding)


@register(OrthogonalDense, one_lipschitz=True)
def _of_orthogonal_dense(layer):
    return dataclasses.replace(
        _dense_bound(_numpy(layer.kernel), _numpy(layer.bias), "Gram iteration on the float32 kernel in use"),
        # The kernel itself is computed afresh in each call; condense the model to have it stored.
        rounding=None,
    )


@register(keras.layers.Dense)
def _of_dense(layer):
    if getattr(layer, "quantization_mode", None) is not None or getattr(layer, "lora_enabled", False):
        raise UnknownBoundError(f"Dense {layer.name!r} is quantized or has LoRA weights; merge them first.")
    if len(layer.input_spec.axes) != 1 or layer.kernel is None:
        raise UnknownBoundError(f"Dense {layer.name!r} is not built.")
    of_kernel = _dense_bound(_numpy(layer.kernel), _numpy(layer.bias), "Gram iteration on the stored kernel")
    of_activation = activation_bound(layer.activation)
    if layer.activation is keras.activations.linear:
        return of_kernel
    return LayerBound(
        _up(of_kernel.lipschitz * of_activation.lipschitz),
        f"{of_kernel.how}, {of_activation.how} {of_activation.lipschitz:g}",
        of_kernel.rounding if of_activation.rounding is not None else None,
    )


@register(keras.layers.Activation)
def _of_activation(layer):
    return activation_bound(layer.activation)


@register(keras.layers.ReLU)
def _of_relu(layer):
    if layer.threshold != 0:
        raise UnknownBoundError(f"ReLU {layer.name!r} with threshold {layer.threshold} is not continuous.")
    slope = abs(float(layer.negative_slope))
    return LayerBound(max(1.0, slope), f"slopes 1 and {slope:g}", Rounding() if slope == 0.0 else None)


@register(keras.layers.Rescaling)
def _of_rescaling(layer):
    scale, offset = np.asarray(layer.scale, "float64"), np.asarray(layer.offset, "float64")
    if scale.ndim or offset.ndim:
        raise UnknownBoundError(f"Rescaling {layer.name!r} has a scale or offset per channel; only scalars are known.")
    rounding = None
    if offset == 0.0:
        # The factor is rounded to float32, and so is the product.
        rounding = Rounding(relative=_up(abs(float(scale)) * gamma(2, FLOAT32_ROUNDOFF)), absolute=1e-30)
    return LayerBound(_up(abs(float(np.float32(scale)))), "its scale", rounding)


def _exact_one_lipschitz(how):
    def of_layer(_):
        return LayerBound(1.0, how, Rounding())

    return of_layer


register(MaxMin, one_lipschitz=True)(_exact_one_lipschitz("a permutation chosen by the input"))
for _layer_class in (keras.layers.Flatten, keras.layers.Reshape, keras.layers.Permute, keras.layers.Identity):
    register(_layer_class, one_lipschitz=True)(_exact_one_lipschitz("moves entries"))
for _layer_class in (keras.layers.Dropout, keras.layers.GaussianNoise, keras.layers.GaussianDropout):
    register(_layer_class, one_lipschitz=True)(_exact_one_lipschitz("identity at inference"))


def _numpy(tensor):
    return None if tensor is None else keras.ops.convert_to_numpy(tensor)
