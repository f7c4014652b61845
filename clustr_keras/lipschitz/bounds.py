"""Proved upper bounds of the Lipschitz constant of a Keras model, and of the rounding of its float32 evaluation."""

import dataclasses
import math
from fractions import Fraction

import keras
import numpy as np

from clustr_keras.lipschitz.graph import Call, UnknownBoundError, interpret
from clustr_keras.lipschitz.layers import MaxMin, OrthogonalDense
from clustr_keras.lipschitz.spectral import float32_upward, gamma, spectral_norm_bound

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
            `rounding_slope ||x|| + rounding_intercept` in l_2 norm, unless something overflows. `None` where no such
            analysis exists.
        peak_slope, peak_intercept: No value on the way is larger than `peak_slope ||x|| + peak_intercept`.
    """

    value: float
    table: tuple[tuple[str, float, str], ...]
    rounding_slope: float | None = None
    rounding_intercept: float | None = None
    peak_slope: float | None = None
    peak_intercept: float | None = None

    def __float__(self):
        return self.value

    def __str__(self):
        width = max((len(name) for name, _, _ in self.table), default=0)
        rows = [f"{name:<{width}}  {bound:<12.9g}  {how}" for name, bound, how in self.table]
        return "\n".join([*rows, f"{'in all':<{width}}  {self.value:<12.9g}"])


_REGISTRY = {}


def register(operation_class, one_lipschitz=False):
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


def bound(model):
    """Upper bound of the l_2 Lipschitz constant of a model, proved for its stored weights.

    The product of the bounds of the operations along the graph, in float64, each inflated by its own rounding.

    Args:
        model: A functional or Sequential `keras.Model` of registered operations, or one layer that is built.

    Returns:
        A `LipschitzBound`.

    Raises:
        UnknownBoundError: (a `ValueError`) If an operation has no known bound; it is named.
        ValueError: If a weight holds a NaN or an infinity, or the bound leaves float32's range.

    Example:

    >>> print(lipschitz.bound(model.backbone))
    """
    table = []

    def apply(call):
        of_layer = _layer_bound(call)
        if not isinstance(call.operation, keras.layers.InputLayer):
            table.append((call.operation.name, of_layer.lipschitz, of_layer.how))
        return _only_input(call).then(of_layer)

    if isinstance(model, keras.Model) and not _is_registered(model):
        signal = interpret(model, _Signal(), apply, _is_registered)
    else:
        signal = apply(Call(model, (_Signal(),), output_shape=_output_shape(model)))
    if not signal.lipschitz <= float(np.finfo("float32").max):
        raise ValueError(f"the Lipschitz bound of {model.name!r} is {signal.lipschitz:g}, beyond float32's range.")
    slope, intercept = signal.error or (None, None)
    return LipschitzBound(float32_upward(signal.lipschitz), tuple(table), slope, intercept, *signal.peak)


def is_one_lipschitz_by_construction(model):
    """Whether every operation of a model is 1-Lipschitz in exact arithmetic, whatever its weights are."""

    def apply(call):
        if isinstance(call.operation, keras.layers.InputLayer):
            return _only_input(call) and _casts_nothing_away(call.operation)
        return _only_input(call) and _REGISTRY.get(type(call.operation), (None, False))[1]

    try:
        return interpret(model, True, apply, _is_registered)
    except UnknownBoundError:
        return False


@dataclasses.dataclass(frozen=True)
class _Signal:
    """Of the map from the model's input to one tensor: Lipschitz bound, affine bounds of norm and rounding error.

    With `n` the norm of the input: exact value at most `norm[0] n + norm[1]`, error at most `error[0] n + error[1]`,
    and every value so far, computed ones included, at most `peak[0] n + peak[1]`.
    """

    lipschitz: float = 1.0
    norm: tuple[float, float] = (1.0, 0.0)
    error: tuple[float, float] | None = (0.0, 0.0)
    peak: tuple[float, float] = (1.0, 0.0)

    def then(self, layer):
        if not math.isfinite(layer.lipschitz):
            raise UnknownBoundError(f"the bound of an operation is {layer.lipschitz}; it is not Lipschitz.")
        lipschitz = _product_upward(self.lipschitz, layer.lipschitz)
        norm = tuple(_up(layer.lipschitz * n) for n in self.norm)
        if self.error is None or layer.rounding is None:
            return _Signal(lipschitz, norm, None, self.peak)
        rounding = layer.rounding
        norm = (norm[0], _up(norm[1] + rounding.offset))
        # An error made before is stretched by the layer, whose own error is that at the rounded value.
        slope, intercept = (
            _up(layer.lipschitz * e + rounding.relative * (n + e)) for n, e in zip(self.norm, self.error, strict=True)
        )
        error = (slope, _up(intercept + rounding.absolute))
        peak = tuple(max(p, _up(n + e)) for p, n, e in zip(self.peak, norm, error, strict=True))
        return _Signal(lipschitz, norm, error, peak)


def _is_registered(operation):
    return type(operation) in _REGISTRY


def _output_shape(layer):
    """Of a layer that stands alone and is built; `None` if it does not say."""
    config = layer.get_build_config() if layer.built else None
    input_shape = (config or {}).get("input_shape")
    return None if input_shape is None else tuple(layer.compute_output_shape(input_shape))


def _layer_bound(call):
    operation = call.operation
    if not _is_registered(operation):
        raise UnknownBoundError(
            f"no Lipschitz bound is known for {type(operation).__name__} {operation.name!r}. "
            f"Replace it, or register one: @lipschitz.register({type(operation).__name__})."
        )
    try:
        of_layer = _REGISTRY[type(operation)][0](call)
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


def _dense_bound(kernel, bias, positions, how):
    """Bound of `x -> x @ kernel + bias` at some positions, and of its rounding.

    At each position the rounding is at most `gamma_(n+1) (|W|^T |x| + |b|)`, entry by entry. The bias acts at every
    position: together they make `sqrt(positions)` of its norm.
    """
    kernel = np.asarray(kernel, dtype="float64")
    rows, columns = kernel.shape
    bias_norm = 0.0 if bias is None else _up(float(np.linalg.norm(np.asarray(bias, dtype="float64"))))
    rounding = None
    if positions is not None:
        bias_norm = _up(bias_norm * math.sqrt(positions))
        error = gamma(rows + 1, FLOAT32_ROUNDOFF)
        # Flushed to zero may be: weights (first term), products, sums and results.
        of_weights = FLOAT32_UNDERFLOW * math.sqrt(rows * columns)
        of_results = 2.0 * FLOAT32_UNDERFLOW * (rows + 1) * math.sqrt(columns * positions)
        rounding = Rounding(
            relative=_up(error * spectral_norm_bound(np.abs(kernel)) + of_weights),
            absolute=_up(error * bias_norm + of_results),
            offset=bias_norm,
        )
    return LayerBound(spectral_norm_bound(kernel), how, rounding)


def _positions(output_shape):
    """How often a dense layer acts within one example, `None` if that is not known."""
    if output_shape is None or None in output_shape[1:]:
        return None
    return math.prod(output_shape[1:-1])


def _casts_nothing_away(layer):
    return keras.backend.is_float_dtype(layer.dtype)


@register(keras.layers.InputLayer)
def _of_input(call):
    layer, shape = call.operation, call.output_shape
    if not _casts_nothing_away(layer):
        raise UnknownBoundError(
            f"the input {layer.name!r} casts images to {layer.dtype}, which is not continuous. Use a float32 input."
        )
    rounding = None
    if None not in shape[1:] and layer.dtype in ("float32", "float64"):
        # Subnormal pixels may be flushed to zero.
        rounding = Rounding(absolute=_up(FLOAT32_UNDERFLOW * math.sqrt(math.prod(shape[1:]))))
    return LayerBound(1.0, "the input", rounding)


@register(OrthogonalDense, one_lipschitz=True)
def _of_orthogonal_dense(call):
    layer = call.operation
    # Without rounding: the kernel is computed afresh in each call; condense the model to have it stored.
    return _dense_bound(_numpy(layer.kernel), None, None, "Gram iteration on the float32 kernel in use")


@register(keras.layers.Dense)
def _of_dense(call):
    layer = call.operation
    if getattr(layer, "quantization_mode", None) is not None or getattr(layer, "lora_enabled", False):
        raise UnknownBoundError(f"Dense {layer.name!r} is quantized or has LoRA weights; merge them first.")
    if not layer.built:
        raise UnknownBoundError(f"Dense {layer.name!r} is not built.")
    bias = None if layer.bias is None else _numpy(layer.bias)
    of_kernel = _dense_bound(
        _numpy(layer.kernel), bias, _positions(call.output_shape), "Gram iteration on the stored kernel"
    )
    if layer.activation is keras.activations.linear:
        return of_kernel
    of_activation = activation_bound(layer.activation)
    return LayerBound(
        _product_upward(of_kernel.lipschitz, of_activation.lipschitz),
        f"{of_kernel.how}, {of_activation.how} {of_activation.lipschitz:g}",
        of_kernel.rounding if of_activation.rounding is not None else None,
    )


@register(keras.layers.Activation)
def _of_activation(call):
    return activation_bound(call.operation.activation)


@register(keras.layers.ReLU)
def _of_relu(call):
    layer = call.operation
    if layer.threshold != 0:
        raise UnknownBoundError(f"ReLU {layer.name!r} with threshold {layer.threshold} is not continuous.")
    slope = float32_upward(abs(layer.negative_slope)) if layer.negative_slope else 0.0
    return LayerBound(max(1.0, slope), f"slopes 1 and {slope:g}", Rounding() if slope == 0.0 else None)


@register(keras.layers.Rescaling)
def _of_rescaling(call):
    layer = call.operation
    scale, offset = np.asarray(layer.scale, "float64"), np.asarray(layer.offset, "float64")
    if scale.ndim or offset.ndim:
        raise UnknownBoundError(f"Rescaling {layer.name!r} has a scale or offset per channel; only scalars are known.")
    if not np.isfinite([scale, offset]).all():
        raise ValueError("scale and offset must be finite.")
    # The factor in use is the scale in the layer's own format.
    factor = float32_upward(abs(float(scale)) * (1.0 if layer.compute_dtype in ("float32", "float64") else 1.01))
    rounding = None
    if offset == 0.0:
        # The factor is rounded, and so is the product, which may be flushed to zero.
        rounding = Rounding(relative=_up(factor * gamma(2, FLOAT32_ROUNDOFF)), absolute=1e-30)
    return LayerBound(factor, "its scale", rounding)


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
    return keras.ops.convert_to_numpy(tensor)
