"""Bounds of activation functions: their true constants, with a proof for each."""

import math
from collections.abc import Callable

import keras
import numpy as np
from keras.src.activations import activations as keras_activations
from keras.src.ops import nn as ops_nn
from keras.src.ops import numpy as ops_numpy

from clustr_keras.lipschitz.graph import Call, UnknownBoundError
from clustr_keras.lipschitz.registry import LayerBound, Rounding, as_array, is_registered, layer_bound, register
from clustr_keras.lipschitz.signals import up
from clustr_keras.lipschitz.spectral import float32_upward
from clustr_keras.types import Shape, Tensor

# The largest slope of each, rounded up. GELU: at sqrt(2), `Phi(x) + x phi(x)` = 1.128905. GELU with tanh: 1.128994.
# SiLU: at 2.399, 1.099840. Mish: 1.088499. SELU: `scale * alpha` = 1.758100 left of 0 (ELU's slope is `alpha exp x`).
# Softmax: its Jacobian `diag(p) - p p^T` has `v^T J v = Var_p(v) <= (max v - min v)^2 / 4 <= ||v||^2 / 2` (Popoviciu).
# Hard swish, `x min(max(x + 3, 0), 6) / 6`: (2x + 3) / 6 at 3. Sparsemax is left out: that of Keras (3.15) is not the
# projection onto the simplex, and steeper.
_SLOPES = {
    "linear": 1.0,
    "relu": 1.0,
    "relu6": 1.0,
    "leaky_relu": 1.0,
    "elu": 1.0,
    "celu": 1.0,
    "selu": 1.7581,
    "gelu": 1.12900,
    "silu": 1.09985,
    "mish": 1.08850,
    "tanh": 1.0,
    "tanh_shrink": 1.0,
    "hard_tanh": 1.0,
    "sigmoid": 0.25,
    "hard_sigmoid": 1.0 / 6.0 + 1e-12,
    "sparse_sigmoid": 0.5,
    "log_sigmoid": 1.0,
    "hard_silu": 1.5,
    "softplus": 1.0,
    "sparse_plus": 1.0,
    "squareplus": 1.0,
    "softsign": 1.0,
    "soft_shrink": 1.0,
    "softmax": 0.5,
}
_EXACT = ("linear", "relu")
_NOT_CONTINUOUS = ("threshold", "hard_shrink")


def activation_bound(activation: Callable[[Tensor], Tensor], input_shape: Shape | None = None) -> LayerBound:
    """Bound of a Keras activation function, or of a layer that is used as one.

    Args:
        activation: What `keras.activations.get` returns.
        input_shape: Shape of what it acts on, batch axis first; needed for log-softmax.

    Returns:
        A `LayerBound`; the linear one and ReLU are computed without rounding.
    """
    if isinstance(activation, keras.Operation) and is_registered(activation):
        shapes = () if input_shape is None else (input_shape,)
        return layer_bound(Call(activation, (None,), (None,), {}, input_shape, shapes))
    name = getattr(activation, "__name__", type(activation).__name__)
    if getattr(keras_activations, name, None) is not activation:
        raise UnknownBoundError(
            f"no Lipschitz bound is known for the activation {name!r}, a function of its own. "
            "Make it a layer and register a bound for that, or use one of Keras."
        )
    if name == "log_softmax":
        return _of_log_softmax(input_shape, -1)
    if name == "softmax":
        return _along_axis(_SLOPES[name], name, input_shape, -1)
    return _named(name)


def _named(name):
    if name in _NOT_CONTINUOUS:
        raise UnknownBoundError(f"the activation {name!r} is not continuous. Use relu or soft_shrink.")
    if name not in _SLOPES:
        raise UnknownBoundError(
            f"no Lipschitz bound is known for the activation {name!r}. Known: {', '.join(_SLOPES)}."
        )
    return LayerBound(_SLOPES[name], name, Rounding() if name in _EXACT else None)


def _along_axis(slope, name, input_shape, axis):
    axes = axis if isinstance(axis, tuple | list) else (axis,)
    if input_shape is None:
        if any(a >= 0 for a in axes):
            raise UnknownBoundError(f"{name} over axis {axis} needs an input shape, to tell whether it mixes examples.")
    elif any(a % len(input_shape) == 0 for a in axes):
        raise UnknownBoundError(f"{name} over axis {axis} mixes the examples of a batch. Choose another axis.")
    return LayerBound(slope, name)


def _of_log_softmax(input_shape, axis):
    """Its Jacobian `I - 1 p^T` projects along 1; such a projection has the norm `||1|| ||p|| <= sqrt(n)`."""
    _along_axis(1.0, "log_softmax", input_shape, axis)
    size = None if input_shape is None else input_shape[axis]
    if size is None:
        raise UnknownBoundError(
            "log_softmax over n entries has the bound sqrt(n), and n is not known. Pass input_shape."
        )
    return LayerBound(up(math.sqrt(size)), f"log_softmax of {size}")


@register(keras.layers.Activation)
def _of_activation(call):
    return activation_bound(call.operation.activation, _shape(call))


def _shape(call):
    return call.input_shapes[0] if call.input_shapes else None


@register(keras.layers.ReLU)
@register(keras_activations.ReLU)
def _of_relu(call):
    layer = call.operation
    if layer.threshold != 0:
        raise UnknownBoundError(f"ReLU {layer.name!r} with threshold {layer.threshold} is not continuous.")
    slope = _upward(layer.negative_slope)
    # A maximum that is no float32 number is rounded.
    is_exact = slope == 0.0 and (layer.max_value is None or float(np.float32(layer.max_value)) == layer.max_value)
    return LayerBound(max(1.0, slope), f"slopes 1 and {slope:g}", Rounding() if is_exact else None)


@register(keras.layers.LeakyReLU)
@register(ops_nn.LeakyRelu)
def _of_leaky_relu(call):
    slope = _upward(call.operation.negative_slope)
    return LayerBound(max(1.0, slope), f"slopes 1 and {slope:g}")


@register(keras.layers.PReLU)
def _of_prelu(call):
    layer = call.operation
    if not layer.built:
        raise UnknownBoundError(f"PReLU {layer.name!r} is not built. Call it once, or its build().")
    slope = _upward(abs(as_array(layer.alpha, "float64")).max(initial=0.0))
    return LayerBound(max(1.0, slope), f"slopes 1 and {slope:g}")


@register(keras.layers.ELU)
@register(ops_nn.Elu)
def _of_elu(call):
    slope = _upward(call.operation.alpha)
    return LayerBound(max(1.0, slope), f"slopes 1 and {slope:g}")


@register(ops_nn.Celu)
def _of_celu(call):
    if not call.operation.alpha > 0:
        raise UnknownBoundError(f"celu with alpha {call.operation.alpha} has no bound. Use a positive alpha.")
    return _named("celu")


@register(ops_nn.SoftShrink)
def _of_soft_shrink(call):
    if not call.operation.threshold >= 0:
        raise UnknownBoundError(f"soft_shrink with threshold {call.operation.threshold} is not continuous.")
    return _named("soft_shrink")


@register(ops_nn.Squareplus)
def _of_squareplus(call):
    if not call.operation.b >= 0:
        raise UnknownBoundError(f"squareplus with b {call.operation.b} has no bound. Use b >= 0.")
    return _named("squareplus")


@register(keras.layers.Softmax)
@register(ops_nn.Softmax)
def _of_softmax(call):
    return _along_axis(_SLOPES["softmax"], "softmax", _shape(call), call.operation.axis)


@register(ops_nn.LogSoftmax)
def _of_log_softmax_operation(call):
    return _of_log_softmax(_shape(call), call.operation.axis)


def _by_name(name):
    def of_operation(_):
        return _named(name)

    return of_operation


for _operation_class, _name in {
    ops_nn.Relu: "relu",
    ops_nn.Relu6: "relu6",
    ops_nn.Selu: "selu",
    ops_nn.Gelu: "gelu",
    ops_nn.Silu: "silu",
    ops_nn.Sigmoid: "sigmoid",
    ops_nn.HardSigmoid: "hard_sigmoid",
    ops_nn.SparseSigmoid: "sparse_sigmoid",
    ops_nn.LogSigmoid: "log_sigmoid",
    ops_nn.HardSilu: "hard_silu",
    ops_nn.HardTanh: "hard_tanh",
    ops_nn.TanhShrink: "tanh_shrink",
    ops_nn.Softplus: "softplus",
    ops_nn.SparsePlus: "sparse_plus",
    ops_nn.Softsign: "softsign",
    ops_nn.Threshold: "threshold",
    ops_nn.HardShrink: "hard_shrink",
    keras_activations.Mish: "mish",
    ops_numpy.Tanh: "tanh",
}.items():
    register(_operation_class)(_by_name(_name))


def _upward(slope):
    """The size of a slope, as a float32 number rounded upward."""
    if not math.isfinite(slope):
        raise ValueError(f"the slope {slope} is not finite, so has no bound.")
    return float32_upward(abs(float(slope))) if slope else 0.0
