"""Dense layers whose sums are short, so that float32 rounds them little."""

import math

import keras
import numpy as np
from keras import ops

from clustr_keras.lipschitz.bounds import (
    FLOAT32_ROUNDOFF,
    FLOAT32_UNDERFLOW,
    LayerBound,
    Rounding,
    register,
)
from clustr_keras.lipschitz.condense import copy_layer
from clustr_keras.lipschitz.spectral import gamma, spectral_norm_bound

# Shorter sums than this gain nothing that would be worth a second operation.
_SHORT_SUM = 32


@keras.saving.register_keras_serializable(package="clustr_keras")
class BlockedDense(keras.layers.Layer):
    """Dense layer that sums in two stages: within blocks of the input, then over the blocks.

    The error of a float32 inner product of length n, in whatever order it is summed, is proved to be at most about
    `n u sum |w_i x_i|`, with `u` = 2^-24. Summing `m` blocks of length `k` has `k + m` in place of `n = k m`: for
    n = 784 that is 60, and the proof of a whole network gets sharper by a factor of 10 or so. The result is that of
    `keras.layers.Dense` up to rounding.

    Args:
        dense: A built `keras.layers.Dense` with a kernel `[n, units]` and a linear or ReLU activation; its weights are
            copied.

    Input shape:
        `[B, n]`.

    Output shape:
        `[B, units]`.

    Example:

    >>> BlockedDense(dense)(x)

    Reference:
        Blanchard, Higham and Mary, A class of fast and accurate summation algorithms, SIAM J. Sci. Comput. 42(3), 2020.
    """

    def __init__(self, dense, **kwargs):
        super().__init__(name=dense.name, dtype=dense.dtype_policy, **kwargs)
        kernel = ops.convert_to_numpy(dense.kernel)
        self.length, self.units = kernel.shape
        self.block = block_length(self.length)
        self.blocks = -(-self.length // self.block)
        self.activation = dense.activation
        padded = np.zeros((self.blocks * self.block, self.units), kernel.dtype)
        padded[: self.length] = kernel
        self.kernel = self.add_weight(
            name="kernel", shape=(self.blocks, self.block, self.units), initializer="zeros", trainable=False
        )
        self.kernel.assign(padded.reshape(self.kernel.shape))
        self.bias = None
        if dense.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros", trainable=False)
            self.bias.assign(dense.bias)
        self.built = True

    def call(self, inputs):
        """Computes `activation(inputs @ kernel + bias)`."""
        # Zeros add nothing and round nothing.
        inputs = ops.pad(inputs, [[0, 0], [0, self.blocks * self.block - self.length]])
        by_block = ops.transpose(ops.reshape(inputs, (-1, self.blocks, self.block)), (1, 0, 2))
        outputs = ops.sum(ops.matmul(by_block, self.kernel), axis=0)
        if self.bias is not None:
            outputs = outputs + self.bias
        return self.activation(outputs)

    def compute_output_shape(self, input_shape):
        """Returns `[B, units]`."""
        return (input_shape[0], self.units)


def block_length(length):
    """Block length that makes `block + length / block` small, a multiple of 8 for the sake of speed."""
    return max(8, 8 * round(1.5 * math.sqrt(length) / 8))


def blocked(model):
    """A copy of a model for inference with `BlockedDense` in place of longer dense layers.

    Args:
        model: A functional or Sequential `keras.Model` with plain kernels, see `condense`.

    Returns:
        A model of the same kind with weights of its own: equal outputs up to rounding, and less of that.

    Example:

    >>> deployed = blocked(condense(model.backbone))
    """

    def copy(layer):
        return BlockedDense(layer) if _has_long_sums(layer) else copy_layer(layer)

    return keras.models.clone_model(model, clone_function=copy, recursive=True)


def _has_long_sums(layer):
    return (
        type(layer) is keras.layers.Dense
        and len(layer.get_build_config()["input_shape"]) == 2
        and layer.kernel.shape[0] > _SHORT_SUM
        and layer.activation in (keras.activations.linear, keras.activations.relu)
        and getattr(layer, "quantization_mode", None) is None
        and not getattr(layer, "lora_enabled", False)
    )


@register(BlockedDense)
def _of_blocked_dense(call):
    layer = call.operation
    kernel = ops.convert_to_numpy(layer.kernel).astype("float64").reshape(-1, layer.units)
    bias_norm = 0.0
    if layer.bias is not None:
        bias_norm = float(np.linalg.norm(ops.convert_to_numpy(layer.bias).astype("float64"))) * (1.0 + 2.0**-40)
    # Products and sums within a block, sums over the blocks, and the bias.
    operations = layer.block + layer.blocks + 1
    error = gamma(operations, FLOAT32_ROUNDOFF)
    of_weights = FLOAT32_UNDERFLOW * math.sqrt(kernel.size)
    of_results = 2.0 * FLOAT32_UNDERFLOW * (kernel.shape[0] + layer.blocks + 1) * math.sqrt(layer.units)
    rounding = Rounding(
        relative=(error * spectral_norm_bound(np.abs(kernel)) + of_weights) * (1.0 + 2.0**-40),
        absolute=(error * bias_norm + of_results) * (1.0 + 2.0**-40),
        offset=bias_norm,
    )
    return LayerBound(spectral_norm_bound(kernel), "Gram iteration on the stored kernel", rounding)
