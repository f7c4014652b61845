"""Layers that are 1-Lipschitz by construction, in the l_2 norm."""

from typing import Any

import keras
from keras import ops

from clustr_keras.integers import checked_integer
from clustr_keras.types import ArrayLike, Shape, Tensor

PACKAGE = "clustr_keras"

# Bounds of `||W^T W - I||_F`, for a stored matrix and for the kernel in use. One Newton-Schulz step takes the first to
# below the second.
_STORED_DEFECT = 1e-2
_KERNEL_DEFECT = 1e-4
# Each multiplies a small singular value by 1.5: enough from the smallest that float32 tells from 0 beside the largest.
_MAX_STEPS = 60
# Beyond this defect, or below this mean square of the singular values, a matrix is first divided by its largest entry.
_LARGE_DEFECT = 1e6
_SMALL_SQUARE = 1e-2


@keras.saving.register_keras_serializable(package=PACKAGE)
class Orthonormal(keras.constraints.Constraint):
    """Pulls a matrix back onto the matrices with orthonormal columns (or rows, where they are fewer).

    Newton-Schulz steps `W <- W (3 I - W^T W) / 2`, until `||W^T W - I||_F <= 0.01` is known. Applied by the optimizer
    after each of its steps, where one of them is usual.

    Example:

    >>> Orthonormal()([[2.0, 0.0], [0.0, 0.5]])
    [[1.0, 0.0], [0.0, 1.0]]  # to 0.01

    Reference:
        Bjorck and Bowie, An iterative algorithm for computing the best estimate of an orthogonal matrix, 1971.
    """

    def __call__(self, w: Tensor | ArrayLike) -> Tensor:
        """Returns the retracted matrix."""
        return _retracted(ops.convert_to_tensor(w), _STORED_DEFECT)


@keras.saving.register_keras_serializable(package=PACKAGE)
class OrthogonalDense(keras.layers.Layer):
    """Dense layer with a semi-orthogonal kernel: an isometry, or a projection where it narrows.

    `outputs = inputs @ kernel + bias`, where `kernel` comes from the stored `raw_kernel` W by Newton-Schulz steps
    `W <- W (3 I - W^T W) / 2` towards the nearest semi-orthogonal matrix: one, where the constraint `Orthonormal` has
    kept W close, and more until `||W^T W - I||_F <= 1e-4` otherwise. A step maps a singular value `s` to
    `s (3 - s^2) / 2`, whose size is at most 1 for `s <= 2`, and W is first divided by `sqrt(1 + ||W^T W - I||_F)`,
    which is at least its spectral norm, where that exceeds 1.5. So the layer is 1-Lipschitz in exact arithmetic, and
    orthogonal to 1e-4, whether the stored weights come from a step of the optimizer, a file or `set_weights`; only what
    has too low a rank, as far as float32 can tell, cannot become orthogonal. What a float32 kernel exceeds 1 by is
    measured by `lipschitz.bound`.

    The gradient in W is that in the kernel K, projected onto the tangent space of the semi-orthogonal matrices,
    `D - K sym(K^T D)`: the derivative of the step at an orthogonal W, at half of its cost.

    Args:
        units: Positive integer, size of the output.
        use_bias: Boolean, whether to add a bias.
        kernel_initializer: Initializer of `raw_kernel`.
        bias_initializer: Initializer of `bias`.

    Input shape:
        `[B, ..., n]`.

    Output shape:
        `[B, ..., units]`.

    Raises:
        ValueError: If `units` is not a positive integer.

    Example:

    >>> layer = OrthogonalDense(64)
    >>> layer(np.ones([1, 128])).shape
    (1, 64)

    Reference:
        Anil, Lucas and Grosse, Sorting out Lipschitz function approximation, ICML 2019.
    """

    def __init__(
        self,
        units: int,
        use_bias: bool = True,
        kernel_initializer: str | dict[str, Any] | keras.initializers.Initializer = "orthogonal",
        bias_initializer: str | dict[str, Any] | keras.initializers.Initializer = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = checked_integer("units", units)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def build(self, input_shape: Shape) -> None:
        """Makes the weights."""
        self.raw_kernel = self.add_weight(
            name="raw_kernel",
            shape=(input_shape[-1], self.units),
            initializer=self.kernel_initializer,
            constraint=Orthonormal(),
            autocast=False,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.units,), initializer=self.bias_initializer)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})

    @property
    def kernel(self) -> Tensor:
        """The kernel in use, `[n, units]`, semi-orthogonal."""
        # A copy, since a TensorFlow variable itself cannot be the argument of a custom gradient.
        return _orthogonal(ops.copy(self.raw_kernel))

    def call(self, inputs: Tensor) -> Tensor:
        """Computes `inputs @ kernel + bias`."""
        outputs = ops.matmul(inputs, ops.cast(self.kernel, inputs.dtype))
        return outputs if self.bias is None else outputs + self.bias

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Returns the input shape with `units` in place of its last axis."""
        return (*input_shape[:-1], self.units)

    def condensed(self) -> keras.layers.Dense:
        """The plain `keras.layers.Dense` that computes the same, with the float32 kernel as a weight of its own."""
        dense = keras.layers.Dense(self.units, use_bias=self.use_bias, name=self.name, dtype=self.dtype_policy)
        dense.build((None, self.raw_kernel.shape[0]))
        dense.kernel.assign(self.kernel)
        if self.bias is not None:
            dense.bias.assign(ops.copy(self.bias))
        return dense

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "units": self.units,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }


@keras.saving.register_keras_serializable(package=PACKAGE)
class MaxMin(keras.layers.Layer):
    """Sorts the features in pairs: `x_i` and `x_(i + n/2)` become their maximum and their minimum.

    A permutation of the features, chosen by the input: 1-Lipschitz, with a gradient of norm 1 everywhere.

    Input shape:
        `[B, ..., n]` with an even n.

    Output shape:
        As the input.

    Raises:
        ValueError: If n is odd.

    Example:

    >>> MaxMin()([[1.0, 5.0, 3.0, 4.0]])
    [[3.0, 5.0, 1.0, 4.0]]

    Reference:
        Anil, Lucas and Grosse, Sorting out Lipschitz function approximation, ICML 2019.
    """

    def build(self, input_shape: Shape) -> None:
        """Checks that the features pair up."""
        if input_shape[-1] is None or input_shape[-1] % 2:
            raise ValueError(
                f"MaxMin sorts pairs, so the last axis must be even; got input shape {tuple(input_shape)}. "
                "Give the layer before it an even number of units."
            )

    def call(self, inputs: Tensor) -> Tensor:
        """Sorts each pair."""
        first, second = ops.split(inputs, 2, axis=-1)
        return ops.concatenate([ops.maximum(first, second), ops.minimum(first, second)], axis=-1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Returns the input shape."""
        return input_shape


@ops.custom_gradient
def _orthogonal(w):
    """The semi-orthogonal matrix nearest to `w`, with the gradient of a step at it."""
    kernel = _retracted(w, _KERNEL_DEFECT)

    def gradient(*args, upstream=None):
        upstream = args[0] if upstream is None else upstream
        if w.shape[0] >= w.shape[1]:
            product = ops.matmul(ops.transpose(kernel), upstream)
            return upstream - ops.matmul(kernel, 0.5 * (product + ops.transpose(product)))
        product = ops.matmul(upstream, ops.transpose(kernel))
        return upstream - ops.matmul(0.5 * (product + ops.transpose(product)), kernel)

    return kernel, gradient


def _retracted(w, tolerance):
    """`w` after one Newton-Schulz step, or as many as bring `||W^T W - I||_F` below a tolerance for sure."""
    gram = _gram(w)
    defect = _defect(gram)
    # Squares of other entries may leave float32's range; what is no number is not below or above anything either.
    is_usual = ops.logical_and(defect < _LARGE_DEFECT, ops.mean(ops.diagonal(gram)) > _SMALL_SQUARE)
    w, gram, defect = ops.cond(is_usual, lambda: (w, gram, defect), lambda: _with_entries_up_to_one(w))
    # Divided by this bound of the spectral norm where it exceeds 1.5, singular values are at most 1.5.
    bound = ops.sqrt(1.0 + defect)
    scale = ops.where(bound > 1.5, 1.0 / bound, 1.0)
    scaled = scale**2 * gram

    def step(w, _):
        gram = _gram(w)
        return _newton_schulz(w, gram), _defect_after(gram)

    return ops.while_loop(
        lambda _, defect: defect > tolerance,
        step,
        (_newton_schulz(w, scaled, scale), _defect_after(scaled)),
        maximum_iterations=_MAX_STEPS,
    )[0]


def _gram(w):
    """`W^T W` or `W W^T`, whichever is smaller."""
    transposed = ops.transpose(w)
    return ops.matmul(transposed, w) if w.shape[0] >= w.shape[1] else ops.matmul(w, transposed)


def _newton_schulz(w, gram, scale=1.0):
    """One step towards the nearest semi-orthogonal matrix, `W (3 I - W^T W) / 2`, from a multiple of `w`."""
    # One product, as sums of matrices would cost a good part of it.
    factor = scale * (1.5 * ops.eye(gram.shape[0], dtype=gram.dtype) - 0.5 * gram)
    return ops.matmul(w, factor) if w.shape[0] >= w.shape[1] else ops.matmul(factor, w)


def _defect(gram):
    """`||W^T W - I||_F`."""
    return ops.norm(gram - ops.eye(gram.shape[0], dtype=gram.dtype))


def _defect_after(gram):
    """Bound of the defect after a step: it takes `E = W^T W - I` to `-(3 E^2 - E^3) / 4`."""
    defect = _defect(gram)
    return 0.75 * defect**2 + 0.25 * defect**3


def _with_entries_up_to_one(w):
    """`w` over its largest entry, its Gram matrix and its defect."""
    largest = ops.max(ops.abs(w))
    # XLA multiplies by the inverse, which float32 has no normal number for where entries are huge.
    size = ops.where(largest > 1.0, 2.0**-64, 1.0)
    w, largest = size * w, size * largest
    w = w / ops.where(largest > 0.0, largest, 1.0)
    gram = _gram(w)
    return w, gram, _defect(gram)
