"""Convolution that is orthogonal by construction, with a kernel of finite size."""

from typing import Any

import keras
from keras import ops

from clustr_keras.integers import checked_integer
from clustr_keras.lipschitz.circular_conv import CircularConv2D, check_size, circular_convolution
from clustr_keras.lipschitz.layers import PACKAGE, OrthogonalDense
from clustr_keras.types import Shape, Tensor

# Takes back what float32 adds to the norm of the product: about 1e-6 at 128 channels.
_SHRINK = 1.0 - 2.0**-19


@keras.saving.register_keras_serializable(package=PACKAGE)
class OrthogonalConv2D(keras.layers.Layer):
    """Convolution whose frequency response is a semi-orthogonal matrix at every frequency.

    The kernel of size k is a product of k - 1 factors per dimension, each with two taps, and of one mixing matrix M:

        A(w) = M  prod_i (P_i + (I - P_i) exp(i w_y)) (Q_i + (I - Q_i) exp(i w_x)),     P = R R^T.

    An orthogonal projection P has an orthogonal factor: it leaves the range of P alone and shifts the rest by a pixel.
    R and M are the kernels of `OrthogonalDense` layers, made orthonormal by one Newton-Schulz step in the graph and a
    retraction after each step of the optimizer. Whatever values are stored, their singular values are at most 1. Then
    `P` has eigenvalues p in [0, 1] and its factor the norm `max |p + (1 - p) exp(i w)| <= 1`, so the layer is
    1-Lipschitz in exact arithmetic for every value of its weights. With more channels than filters A(w) is the
    transpose of such a product, whose singular values are the same. The kernel of an even size begins `(k - 1) // 2`
    pixels before the pixel it is for, as in Keras.

    With circular padding the layer is itself an isometry, or a projection where channels get fewer. Padding with zeros
    takes the convolution on the infinite plane to a part of it: that never stretches either, but what a shift moves
    beyond the edge is lost. At inference it is one plain convolution, see `lipschitz.condense`.

    Args:
        filters: Positive integer, number of output channels.
        kernel_size: Positive integer k, height and width of the kernel.
        padding: `"circular"`, the images wrap around, or `"same"`, with zeros around them.
        use_bias: Boolean, whether to add a bias.
        kernel_initializer: Initializer of the matrices that R and M are made from.
        bias_initializer: Initializer of `bias`.

    Input shape:
        `[B, H, W, C]`.

    Output shape:
        `[B, H, W, filters]`.

    Raises:
        ValueError: If `filters` or `kernel_size` is not a positive integer, `padding` is neither of the two, or images
            are too small to wrap around.

    Example:

    >>> layer = OrthogonalConv2D(16)
    >>> layer(np.zeros([1, 14, 14, 4])).shape
    (1, 14, 14, 16)

    Reference:
        Li et al., Preventing Gradient Attenuation in Lipschitz Constrained Convolutional Networks, NeurIPS 2019.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int = 3,
        padding: str = "circular",
        use_bias: bool = True,
        kernel_initializer: str | dict[str, Any] | keras.initializers.Initializer = "orthogonal",
        bias_initializer: str | dict[str, Any] | keras.initializers.Initializer = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if padding not in ("circular", "same"):
            raise ValueError(f'padding must be "circular" or "same"; got {padding!r}.')
        self.filters = checked_integer("filters", filters)
        self.kernel_size = checked_integer("kernel_size", kernel_size)
        self.padding = padding
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def build(self, input_shape: Shape) -> None:
        """Makes the weights."""
        if len(input_shape) != 4 or input_shape[-1] is None:
            raise ValueError(
                f"OrthogonalConv2D needs images [B, H, W, C] with C known; got shape {tuple(input_shape)}."
            )
        if self.padding == "circular":
            check_size(input_shape, self.kernel_size)
        self.channels = input_shape[-1]
        narrow, wide = sorted((self.channels, self.filters))
        self.mixing = self._orthogonal(narrow, wide, "mixing", 0)
        # The ranks fix how far the layer shifts on average, here not at all; halves leave the most freedom besides.
        rank = max(1, wide // 2)
        count = 2 * (self.kernel_size - 1)
        self.ranges = [self._orthogonal(wide, rank, f"range_{i}", i + 1) for i in range(count)]
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer=self.bias_initializer)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: self.channels})

    def _orthogonal(self, rows, columns, name, number):
        initializer = self.kernel_initializer
        if isinstance(initializer, keras.initializers.Initializer):
            # One instance would give all of them the same values, and so would one seed.
            config = initializer.get_config()
            if isinstance(config.get("seed"), int):
                config["seed"] += number
            initializer = type(initializer).from_config(config)
        layer = OrthogonalDense(
            columns, use_bias=False, kernel_initializer=initializer, name=name, dtype=self.dtype_policy
        )
        layer.build((None, rows))
        return layer

    @property
    def kernel(self) -> Tensor:
        """The kernel in use, `[k, k, C, filters]`."""
        kernel = _SHRINK * self.mixing.kernel[None, None]
        for index, layer in enumerate(self.ranges):
            kernel = _with_factor(kernel, layer.kernel, axis=index % 2)
        # Of more channels than filters it is the transpose: a semi-orthogonal response stays one.
        return kernel if self.channels <= self.filters else ops.transpose(kernel, (0, 1, 3, 2))

    def call(self, inputs: Tensor) -> Tensor:
        """Convolves."""
        kernel = ops.cast(self.kernel, inputs.dtype)
        if self.padding == "circular":
            outputs = circular_convolution(inputs, kernel)
        else:
            outputs = ops.conv(inputs, kernel, padding="same", data_format="channels_last")
        return outputs if self.bias is None else outputs + self.bias

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Returns the input shape with `filters` in place of its last axis."""
        return (*input_shape[:-1], self.filters)

    def condensed(self) -> keras.layers.Conv2D | CircularConv2D:
        """The plain convolution that computes the same, with the float32 kernel as a weight of its own.

        A `keras.layers.Conv2D`, or a `CircularConv2D` where the images wrap around.
        """
        common = {"use_bias": self.use_bias, "name": self.name, "dtype": self.dtype_policy}
        if self.padding == "circular":
            convolution: keras.layers.Layer = CircularConv2D(self.filters, self.kernel_size, **common)
        else:
            convolution = keras.layers.Conv2D(
                self.filters, self.kernel_size, padding="same", data_format="channels_last", **common
            )
        convolution.build((None, None, None, self.channels))
        convolution.kernel.assign(self.kernel)
        if self.bias is not None:
            convolution.bias.assign(ops.copy(self.bias))
        return convolution

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "padding": self.padding,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }


def _with_factor(kernel, basis, axis):
    """The kernel followed by the taps `P = R R^T` and, one place further along an axis, `I - P`."""
    kept = ops.matmul(ops.matmul(kernel, basis), ops.transpose(basis))
    after, before = ([(0, 0)] * 4 for _ in range(2))
    after[axis], before[axis] = (0, 1), (1, 0)
    return ops.pad(kept, after) + ops.pad(kernel - kept, before)
