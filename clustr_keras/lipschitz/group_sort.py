"""Sorting of features in groups, an activation with a gradient of norm 1."""

from typing import Any

import keras
from keras import ops

from clustr_keras.integers import checked_integer
from clustr_keras.lipschitz.layers import PACKAGE
from clustr_keras.types import Shape, Tensor


@keras.saving.register_keras_serializable(package=PACKAGE)
class GroupSort(keras.layers.Layer):
    """Sorts the features within groups of g, the largest first.

    With m = n / g groups, group `i` is made of the features `x_i, x_(i + m), x_(i + 2m), ...`. A permutation of the
    features, chosen by the input: 1-Lipschitz, with a gradient of norm 1 everywhere. `GroupSort(2)` computes what
    `MaxMin` does, which is faster for pairs.

    Args:
        group_size: Integer g, at least 2.

    Input shape:
        `[B, ..., n]` with n divisible by `group_size`.

    Output shape:
        As the input.

    Raises:
        ValueError: If `group_size` is not an integer above 1, or does not divide n.

    Example:

    >>> GroupSort(3)([[1.0, 5.0, 3.0, 4.0, 2.0, 6.0]])
    [[3.0, 6.0, 2.0, 5.0, 1.0, 4.0]]

    Reference:
        Anil, Lucas and Grosse, Sorting out Lipschitz function approximation, ICML 2019.
    """

    def __init__(self, group_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.group_size = checked_integer("group_size", group_size, 2)

    def build(self, input_shape: Shape) -> None:
        """Checks that the groups come out even."""
        if input_shape[-1] is None or input_shape[-1] % self.group_size:
            raise ValueError(
                f"GroupSort({self.group_size}) needs a last axis divisible by {self.group_size}; got input shape "
                f"{tuple(input_shape)}. Give the layer before it such a number of units."
            )

    def call(self, inputs: Tensor) -> Tensor:
        """Sorts each group."""
        shape = ops.shape(inputs)
        groups = ops.reshape(inputs, (*shape[:-1], self.group_size, shape[-1] // self.group_size))
        return ops.reshape(-ops.sort(-groups, axis=-2), shape)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Returns the input shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "group_size": self.group_size}
