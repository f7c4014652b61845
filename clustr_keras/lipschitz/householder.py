"""Activation that reflects pairs of features, with a learned mirror for each."""

import math
from typing import Any

import keras
from keras import ops

from clustr_keras.lipschitz.layers import PACKAGE
from clustr_keras.types import Shape, Tensor


@keras.saving.register_keras_serializable(package=PACKAGE)
class HouseholderActivation(keras.layers.Layer):
    """Reflects each pair of features onto one side of a learned line.

    The pair `z = (x_i, x_(i + n/2))` with the angle `t_i` becomes `z + 2 max(0, -v.z) v` with
    `v = (sin(t_i / 2), -cos(t_i / 2))`: itself where `v.z >= 0`, and its mirror image `(I - 2 v v^T) z` elsewhere. Both
    sides agree on the line, so the map is continuous, and an isometry on either side: 1-Lipschitz, with a gradient of
    norm 1 everywhere. At `t_i = pi/2`, where training begins, it is `MaxMin`.

    Input shape:
        `[B, ..., n]` with an even n.

    Output shape:
        As the input.

    Raises:
        ValueError: If n is odd.

    Example:

    >>> HouseholderActivation()([[1.0, 5.0, 3.0, 4.0]])
    [[3.0, 5.0, 1.0, 4.0]]

    Reference:
        Singla, Singla and Feizi, Improved deterministic l2 robustness on CIFAR-10 and CIFAR-100, ICLR 2022.
    """

    def build(self, input_shape: Shape) -> None:
        """Makes one angle for each pair."""
        self.angles = self.add_weight(
            name="angles",
            shape=(_number_of_pairs(self, input_shape),),
            initializer=keras.initializers.Constant(math.pi / 2.0),
            autocast=False,
        )

    @property
    def directions(self) -> Tensor:
        """The vectors v in use, `[2, n / 2]`."""
        half = 0.5 * ops.convert_to_tensor(self.angles)
        return ops.stack([ops.sin(half), -ops.cos(half)])

    def call(self, inputs: Tensor) -> Tensor:
        """Reflects the pairs."""
        return _reflected(inputs, self.directions)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Returns the input shape."""
        return input_shape

    def condensed(self) -> "PairReflection":
        """The `PairReflection` that computes the same, with the float32 directions as a weight of its own."""
        layer = PairReflection(name=self.name, dtype=self.dtype_policy)
        layer.build((None, 2 * self.angles.shape[0]))
        layer.directions.assign(self.directions)
        return layer

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return super().get_config()


@keras.saving.register_keras_serializable(package=PACKAGE)
class PairReflection(keras.layers.Layer):
    """What `HouseholderActivation` condenses to: the directions are stored, and no longer computed from angles.

    Its Lipschitz constant is the largest of 1 and `|1 - 2 ||v||^2|`, for whatever directions `v` are stored.

    Input shape:
        `[B, ..., n]` with an even n.

    Output shape:
        As the input.

    Example:

    >>> plain = activation.condensed()
    """

    def build(self, input_shape: Shape) -> None:
        """Makes the weights, which reflect nothing until they are assigned."""
        self.directions = self.add_weight(
            name="directions",
            shape=(2, _number_of_pairs(self, input_shape)),
            initializer="zeros",
            trainable=False,
            autocast=False,
        )

    def call(self, inputs: Tensor) -> Tensor:
        """Reflects the pairs."""
        return _reflected(inputs, ops.convert_to_tensor(self.directions))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Returns the input shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        # Without a method of its own Keras refuses a layer that was made with a policy for its dtype.
        return super().get_config()


def _number_of_pairs(layer, input_shape):
    if input_shape[-1] is None or input_shape[-1] % 2:
        raise ValueError(
            f"{type(layer).__name__} reflects pairs, so the last axis must be even; got input shape "
            f"{tuple(input_shape)}. Give the layer before it an even number of units."
        )
    return input_shape[-1] // 2


def _reflected(inputs, directions):
    """`z + 2 max(0, -v.z) v`. In this form it is continuous for every v, one that rounding made longer included."""
    directions = ops.cast(directions, inputs.dtype)
    first, second = ops.split(inputs, 2, axis=-1)
    beyond = 2.0 * ops.relu(-(first * directions[0] + second * directions[1]))
    return ops.concatenate([first + beyond * directions[0], second + beyond * directions[1]], axis=-1)
