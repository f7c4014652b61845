"""A model for inference whose sums are short, so that float32 rounds them little."""

import keras

from clustr_keras.lipschitz.blocked_conv import BlockedConv2D
from clustr_keras.lipschitz.blocked_dense import EXACT_ACTIVATIONS, SHORT_SUM, BlockedDense
from clustr_keras.lipschitz.circular_conv import CircularConv2D
from clustr_keras.lipschitz.condense import copy_layer


def blocked(model: keras.Model) -> keras.Model:
    """A copy of a model for inference, its dense layers and convolutions as `BlockedDense` and `BlockedConv2D`.

    Args:
        model: A functional or Sequential `keras.Model` with plain kernels, see `condense`.

    Returns:
        A model of the same kind with weights of its own: equal outputs up to rounding, and less of that.

    Example:

    >>> deployed = blocked(condense(model.backbone))
    """

    def copy(layer):
        if _is_dense_with_long_sums(layer):
            return BlockedDense(layer)
        if _is_convolution(layer):
            return BlockedConv2D(layer)
        return copy_layer(layer)

    return keras.models.clone_model(model, clone_function=copy, recursive=True)


def _is_dense_with_long_sums(layer):
    return type(layer) is keras.layers.Dense and layer.kernel.shape[0] > SHORT_SUM and _is_plain(layer)


def _is_convolution(layer):
    if type(layer) is CircularConv2D:
        return True
    return (
        type(layer) is keras.layers.Conv2D
        and layer.data_format == "channels_last"
        and layer.groups == 1
        and _is_plain(layer)
    )


def _is_plain(layer):
    return (
        layer.activation in EXACT_ACTIVATIONS
        and getattr(layer, "quantization_mode", None) is None
        and not getattr(layer, "lora_enabled", False)
    )
