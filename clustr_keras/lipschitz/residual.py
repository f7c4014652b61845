"""Residual layer that is 1-Lipschitz by a proof for the sum, not for its branches."""

from typing import Any

import keras
from keras import ops

from clustr_keras.integers import checked_integer
from clustr_keras.lipschitz.layers import PACKAGE
from clustr_keras.types import Shape, Tensor

# Beyond it the ratios of the scales would leave float32's precision.
_LARGEST_LOG_SCALE = 10.0
# A column with less than that of the largest entry's square is left out.
_NEGLIGIBLE = 1e-20


class _Dense(keras.layers.Layer):
    """The shape of a residual layer's kernel, and what it computes with it."""

    def _kernel_shape(self, input_shape):
        return (input_shape[-1], self.units)

    def _apply(self, inputs, kernel):
        return inputs - 2.0 * ops.matmul(ops.relu(ops.matmul(inputs, kernel) + self.bias), ops.transpose(kernel))


@keras.saving.register_keras_serializable(package=PACKAGE)
class LipschitzResidual(_Dense):
    """Residual layer `x - 2 V relu(V^T x + b)` with `||V||_2 <= 1`.

    Here `V = W T^(-1/2)`, with `T` diagonal, `T_i = sum_j |W^T W|_ij q_j / q_i`, and `q = exp(log_scales)`. By diagonal
    dominance `W^T W <= T`, so the norm of V is at most 1, for every value of the stored weights. This is the layer
    `x - 2 W T^-1 relu(W^T x + c)` of the reference, as ReLU commutes with positive scales (`b = T^(-1/2) c`).

    **Proof.** Let `v` be the difference of two inputs and `d` that of the two ReLUs. As ReLU is monotone with slopes of
    at most 1, `d_i^2 <= d_i (V^T v)_i`. So

        ||v - 2 V d||^2 = ||v||^2 - 4 d.V^T v + 4 ||V d||^2 <= ||v||^2 - 4 ||d||^2 + 4 ||V||^2 ||d||^2 <= ||v||^2.

    Composed from its parts, the bound would be 1 + 2 = 3: it is the sum that does not stretch. So `lipschitz.condense`
    keeps it as one layer, `CondensedResidual`, whose bound is that of this proof for the stored V.

    Args:
        units: Positive integer, the number of ReLUs.
        kernel_initializer: Initializer of `raw_kernel`, the matrix W.
        bias_initializer: Initializer of `bias`.

    Input shape:
        `[B, ..., n]`.

    Output shape:
        As the input.

    Raises:
        ValueError: If `units` is not a positive integer.

    Example:

    >>> LipschitzResidual(32)(np.ones([1, 16])).shape
    (1, 16)

    Reference:
        Araujo et al., A Unified Algebraic Perspective on Lipschitz Neural Networks, ICLR 2023, Theorem 3.
    """

    def __init__(
        self,
        units: int,
        kernel_initializer: str | dict[str, Any] | keras.initializers.Initializer = "orthogonal",
        bias_initializer: str | dict[str, Any] | keras.initializers.Initializer = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = checked_integer("units", units)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def build(self, input_shape: Shape) -> None:
        """Makes the weights."""
        self.raw_kernel = self.add_weight(
            name="raw_kernel",
            shape=self._kernel_shape(input_shape),
            initializer=self.kernel_initializer,
            autocast=False,
        )
        self.log_scales = self.add_weight(name="log_scales", shape=(self.units,), initializer="zeros", autocast=False)
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer=self.bias_initializer)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})

    @property
    def kernel(self) -> Tensor:
        """The matrix V in use, `[n, units]`, of norm at most 1."""
        w = ops.convert_to_tensor(self.raw_kernel)
        # V does not depend on the size of W; at this one no square leaves float32's range.
        largest = ops.stop_gradient(ops.max(ops.abs(w)))
        w = w / ops.where(largest > 0.0, largest, ops.ones_like(largest))
        scales = ops.exp(ops.clip(self.log_scales, -_LARGEST_LOG_SCALE, _LARGEST_LOG_SCALE))
        dominant = ops.sum(self._inner_products(w) * scales, axis=-1) / scales
        is_counted = dominant > _NEGLIGIBLE
        return ops.where(is_counted, w / ops.sqrt(ops.where(is_counted, dominant, 1.0)), 0.0)

    def call(self, inputs: Tensor) -> Tensor:
        """Computes `x - 2 V relu(V^T x + b)`."""
        return self._apply(inputs, ops.cast(self.kernel, inputs.dtype))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Returns the input shape."""
        return input_shape

    def condensed(self) -> "CondensedResidual":
        """The `CondensedResidual` that computes the same, with the float32 matrix V as a weight of its own."""
        layer = self._condensed_layer()
        layer.build(tuple(self.get_build_config()["input_shape"]))
        layer.kernel.assign(self.kernel)
        layer.bias.assign(ops.copy(self.bias))
        return layer

    def _inner_products(self, w):
        """Sizes of the inner products of all columns."""
        return ops.abs(ops.matmul(ops.transpose(w), w))

    def _condensed_layer(self):
        return CondensedResidual(self.units, name=self.name, dtype=self.dtype_policy)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "units": self.units,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }


@keras.saving.register_keras_serializable(package=PACKAGE)
class CondensedResidual(_Dense):
    """What `LipschitzResidual` condenses to: `x - 2 V relu(V^T x + b)` with V stored, and no longer computed.

    With `s = ||V||^2` its Lipschitz constant is at most `sqrt(1 + 4 s max(0, s - 1))`, whatever is stored: in the proof
    of `LipschitzResidual`, `||d||^2 <= s ||v||^2`.

    Args:
        units: Positive integer, the number of ReLUs.

    Input shape:
        `[B, ..., n]`.

    Output shape:
        As the input.

    Raises:
        ValueError: If `units` is not a positive integer.

    Example:

    >>> plain = residual.condensed()
    """

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = checked_integer("units", units)

    def build(self, input_shape: Shape) -> None:
        """Makes the weights, zeros until they are assigned."""
        shape = self._kernel_shape(input_shape)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer="zeros", trainable=False)
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros", trainable=False)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})

    def call(self, inputs: Tensor) -> Tensor:
        """Computes `x - 2 V relu(V^T x + b)`."""
        return self._apply(inputs, ops.convert_to_tensor(self.kernel))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Returns the input shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "units": self.units}
