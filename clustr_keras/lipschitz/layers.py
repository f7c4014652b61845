"""Layers that are 1-Lipschitz by construction, in the l_2 norm."""

import keras
from keras import ops

PACKAGE = "clustr_keras"

# Where the retraction stops: one Newton-Schulz step in the graph squares this, to below 1e-6.
_TOLERANCE = 1e-3
_MAX_STEPS = 40


@keras.saving.register_keras_serializable(package=PACKAGE)
class Orthonormal(keras.constraints.Constraint):
    """Pulls a matrix back onto the matrices with orthonormal columns (or rows, where they are fewer).

    Newton-Schulz steps `W <- W (3 I - W^T W) / 2` until `||W^T W - I||_F <= 1e-3`. Applied by the optimizer after each
    of its steps, where two of them are usual.

    Example:

    >>> Orthonormal()([[2.0, 0.0], [0.0, 0.5]])
    [[1.0, 0.0], [0.0, 1.0]]  # to 1e-3

    Reference:
        Bjorck and Bowie, An iterative algorithm for computing the best estimate of an orthogonal matrix, 1971.
    """

    def __call__(self, w):
        """Returns the retracted matrix."""

        def step(w, gram):
            w = _newton_schulz(w, gram)
            return w, _gram(w)

        def unfinished(_, gram):
            return _defect(gram) > _TOLERANCE

        state = _shrink(ops.convert_to_tensor(w))
        return ops.while_loop(unfinished, step, state, maximum_iterations=_MAX_STEPS)[0]


@keras.saving.register_keras_serializable(package=PACKAGE)
class OrthogonalDense(keras.layers.Layer):
    """Dense layer with a semi-orthogonal kernel: an isometry, or a projection where it narrows.

    `outputs = inputs @ kernel + bias`, where `kernel` is one Newton-Schulz step `W (3 I - W^T W) / 2` from the stored
    `raw_kernel` W. The step maps a singular value `s` to `s (3 - s^2) / 2`, whose size is at most 1 for `s <= 2`, and W
    is divided by `sqrt(1 + ||W^T W - I||_F)`, which is at least its spectral norm, where that exceeds 1.5. So
    the layer is 1-Lipschitz in exact arithmetic for every value of the stored weights, whether they come from a step
    of the optimizer, a file or `set_weights`. The constraint `Orthonormal` keeps W close enough to orthonormal
    for the kernel to be orthonormal to 1e-6; at such a W the step's derivative is the projection onto the tangent
    space. What a float32 kernel exceeds 1 by is measured by `lipschitz.bound`.

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

    def __init__(self, units, use_bias=True, kernel_initializer="orthogonal", bias_initializer="zeros", **kwargs):
        super().__init__(**kwargs)
        if not isinstance(units, int) or units < 1:
            raise ValueError(f"units must be a positive integer; got {units!r}.")
        self.units = units
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def build(self, input_shape):
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
    def kernel(self):
        """The kernel in use, `[n, units]`, semi-orthogonal."""
        return _newton_schulz(*_shrink(ops.convert_to_tensor(self.raw_kernel)))

    def call(self, inputs):
        """Computes `inputs @ kernel + bias`."""
        outputs = ops.matmul(inputs, ops.cast(self.kernel, inputs.dtype))
        return outputs if self.bias is None else outputs + self.bias

    def compute_output_shape(self, input_shape):
        """Returns the input shape with `units` in place of its last axis."""
        return (*input_shape[:-1], self.units)

    def condensed(self):
        """The plain `keras.layers.Dense` that computes the same, with the float32 kernel as a weight of its own."""
        dense = keras.layers.Dense(self.units, use_bias=self.use_bias, name=self.name, dtype=self.dtype_policy)
        dense.build((None, self.raw_kernel.shape[0]))
        dense.kernel.assign(self.kernel)
        if self.bias is not None:
            dense.bias.assign(self.bias)
        return dense

    def get_config(self):
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

    def build(self, input_shape):
        """Checks that the features pair up."""
        if input_shape[-1] is None or input_shape[-1] % 2:
            raise ValueError(
                f"MaxMin sorts pairs, so the last axis must be even; got input shape {tuple(input_shape)}. "
                "Give the layer before it an even number of units."
            )

    def call(self, inputs):
        """Sorts each pair."""
        first, second = ops.split(inputs, 2, axis=-1)
        return ops.concatenate([ops.maximum(first, second), ops.minimum(first, second)], axis=-1)

    def compute_output_shape(self, input_shape):
        """Returns the input shape."""
        return input_shape


def _gram(w):
    """`W^T W` or `W W^T`, whichever is smaller."""
    transposed = ops.transpose(w)
    return ops.matmul(transposed, w) if w.shape[0] >= w.shape[1] else ops.matmul(w, transposed)


def _newton_schulz(w, gram):
    """One step towards the nearest semi-orthogonal matrix, `W (3 I - W^T W) / 2`."""
    return 1.5 * w - 0.5 * (ops.matmul(w, gram) if w.shape[0] >= w.shape[1] else ops.matmul(gram, w))


def _defect(gram):
    """`||W^T W - I||_F`."""
    return ops.sqrt(ops.sum(ops.square(gram - ops.eye(gram.shape[0], dtype=gram.dtype))))


def _shrink(w):
    """`w` and its Gram matrix, divided by a bound of the spectral norm where that exceeds 1.5."""
    # Entries first, where they are large: their squares must not leave float32's range.
    largest = ops.stop_gradient(ops.max(ops.abs(w)))
    w = w / ops.where(largest > 2.0, largest, 1.0)
    gram = _gram(w)
    bound = ops.sqrt(1.0 + ops.stop_gradient(_defect(gram)))
    scale = ops.where(bound > 1.5, 1.0 / bound, 1.0)
    return scale * w, scale**2 * gram
