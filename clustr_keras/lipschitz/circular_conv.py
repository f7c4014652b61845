"""Plain convolution whose images wrap around."""

from typing import Any

import keras
from keras import ops

from clustr_keras.lipschitz.layers import PACKAGE
from clustr_keras.types import Shape, Tensor


@keras.saving.register_keras_serializable(package=PACKAGE)
class CircularConv2D(keras.layers.Layer):
    """Convolution with stride 1 in which the left neighbor of the first column is the last one, and so on.

    What an `OrthogonalConv2D` with circular padding condenses to. Its singular values are those of the kernel's
    frequency response at the frequencies that the image's size allows, so the supremum over all bounds its norm.

    Args:
        filters: Positive integer, number of output channels.
        kernel_size: Positive integer k, height and width of the kernel.
        use_bias: Boolean, whether to add a bias.

    Input shape:
        `[B, H, W, C]`, with H and W at least k - 1.

    Output shape:
        `[B, H, W, filters]`.

    Raises:
        ValueError: If an image is smaller than that.

    Example:

    >>> CircularConv2D(16, 3)(np.zeros([1, 14, 14, 4])).shape
    (1, 14, 14, 16)
    """

    def __init__(self, filters: int, kernel_size: int, use_bias: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.use_bias = use_bias

    def build(self, input_shape: Shape) -> None:
        """Makes the weights, zeros until they are assigned."""
        check_size(input_shape, self.kernel_size)
        shape = (self.kernel_size, self.kernel_size, input_shape[-1], self.filters)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer="zeros")
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros") if self.use_bias else None
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: input_shape[-1]})

    def call(self, inputs: Tensor) -> Tensor:
        """Convolves."""
        outputs = circular_convolution(inputs, ops.convert_to_tensor(self.kernel))
        return outputs if self.bias is None else outputs + self.bias

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Returns the input shape with `filters` in place of its last axis."""
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "use_bias": self.use_bias,
        }


def circular_convolution(images: Tensor, kernel: Tensor) -> Tensor:
    """Convolution of `[B, H, W, C]` with a kernel `[k, k, C, filters]`, wrapped around."""
    before, after = (kernel.shape[0] - 1) // 2, kernel.shape[0] // 2
    for axis in (1, 2):
        images = wrapped(images, before, after, axis)
    return ops.conv(images, kernel, padding="valid", data_format="channels_last")


def check_size(shape: Shape, kernel_size: int) -> None:
    """Raises ValueError if images of that shape cannot be wrapped around."""
    if any(size is not None and size < kernel_size - 1 for size in shape[1:3]):
        raise ValueError(
            f"a kernel of size {kernel_size} needs images of at least {kernel_size - 1} pixels along each side to wrap "
            f"around; got shape {tuple(shape)}. Use a smaller kernel, or a convolution that does not wrap around."
        )


def wrapped(images: Tensor, before: int, after: int, axis: int) -> Tensor:
    """Images with the last `before` rows (or columns) in front of them, and the first `after` ones behind."""
    size = images.shape[axis] or ops.shape(images)[axis]
    rows = [slice(None)] * axis
    head, tail = images[(*rows, slice(0, after))], images[(*rows, slice(size - before, size))]
    return ops.concatenate([tail, images, head], axis=axis)
