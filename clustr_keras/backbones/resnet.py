"""ResNet-18 in its form for small images."""

from collections.abc import Sequence

import keras

from clustr_keras.backbones.normalization import normalized
from clustr_keras.types import Shape


def resnet18(
    input_shape: Shape = (32, 32, 3),
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    width: int = 64,
    name: str = "resnet18",
) -> keras.Model:
    """ResNet-18 for small images, without its last layer: `x + F(x)` eight times, then the mean over all positions.

    A 3x3 convolution without pooling, then four stages of two basic blocks with `width`, `2 width`, `4 width` and
    `8 width` channels, which halve the size from the second stage on. Where a block changes the shape, a strided 1x1
    convolution with batch normalization takes the place of the identity.

    Args:
        input_shape: Shape of one image, `(H, W, C)`.
        mean: C floats, the mean of the pixels; the input is normalized inside the model. No normalization by default.
        std: C floats, the standard deviation of the pixels; given with `mean` or not at all.
        width: Integer, channels of the first stage.
        name: Name of the model.

    Returns:
        A functional `keras.Model` from images `[B, H, W, C]` in [0, 1] to embeddings `[B, 8 * width]`, float32 under
        any dtype policy.

    Raises:
        ValueError: If `mean` or `std` do not fit each other or the channels of `input_shape`.

    Example:

    >>> backbone = resnet18((32, 32, 3), CIFAR10_MEAN, CIFAR10_STD)
    >>> backbone.output_shape
    (None, 512)

    Reference:
        He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2 for small images.
    """
    images = keras.Input(input_shape, name="images")
    x = normalized(images, mean, std)
    x = _activation(_norm(_conv(x, width, 3, 1, "stem_conv"), "stem_norm"), "stem_relu")
    for stage in range(4):
        for block in range(2):
            stride = 2 if stage > 0 and block == 0 else 1
            x = _basic_block(x, width * 2**stage, stride, f"stage{stage + 1}_block{block + 1}")
    x = keras.layers.GlobalAveragePooling2D(dtype="float32", name="embedding")(x)
    return keras.Model(images, x, name=name)


def _basic_block(x, channels, stride, name):
    """`relu(shortcut(x) + F(x))` with two 3x3 convolutions in F."""
    shortcut = x
    if stride > 1 or x.shape[-1] != channels:
        shortcut = _norm(_conv(x, channels, 1, stride, f"{name}_shortcut_conv"), f"{name}_shortcut_norm")
    x = _activation(_norm(_conv(x, channels, 3, stride, f"{name}_conv1"), f"{name}_norm1"), f"{name}_relu1")
    x = _norm(_conv(x, channels, 3, 1, f"{name}_conv2"), f"{name}_norm2")
    return _activation(keras.layers.Add(name=f"{name}_add")([shortcut, x]), f"{name}_relu2")


def _conv(x, channels, size, stride, name):
    padding = "same"
    if stride > 1:
        # Here "same" would pad the far side only; PyTorch, and the weights trained there, have one pixel on each.
        padding = "valid"
        if size == 3:
            x = keras.layers.ZeroPadding2D(1, name=f"{name}_padding")(x)
    # Kept variance on the way back, from the network's own paper; one initializer per layer, so that no two agree.
    initializer = keras.initializers.VarianceScaling(2.0, mode="fan_out", distribution="untruncated_normal")
    return keras.layers.Conv2D(
        channels, size, stride, padding, use_bias=False, kernel_initializer=initializer, name=name
    )(x)


def _norm(x, name):
    # PyTorch's defaults, with which the published models were trained. Its momentum of 0.1 is 0.9 in Keras' terms.
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def _activation(x, name):
    return keras.layers.ReLU(name=name)(x)
