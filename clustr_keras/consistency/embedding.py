"""Consistency of embeddings."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras

from clustr_keras.consistency.term import ConsistencyTerm
from clustr_keras.losses.consistency import embedding_mse
from clustr_keras.types import Tensor

if TYPE_CHECKING:
    from clustr_keras.heads import ClusterHead


@keras.saving.register_keras_serializable(package="clustr_keras")
class EmbeddingConsistency(ConsistencyTerm):
    """`weight * ||f(x) - f(x')||^2 / D`, with `x'` one signed-gradient step on it from a uniform start in the ball.

    Args:
        weight: Float.
        eps: Float, radius of the l_inf ball, pixels in [0, 1].
        step_size: Float, length of the step; 1.25 eps by default.
        seed: Integer, of the starts.

    Example:

    >>> model.compile("adam", loss=MagnetLoss(), consistency=EmbeddingConsistency(weight=8.0))

    Reference:
        Alfarra et al., Rethinking Clustering for Robustness, BMVC 2021, for the variant on embeddings.
    """

    def __init__(
        self, weight: float = 8.0, eps: float = 8 / 255, step_size: float | Sequence[float] | None = None, seed: int = 0
    ) -> None:
        super().__init__(weight, eps, 1.25 * eps if step_size is None else step_size, steps=1, seed=seed)

    def features(self, head: "ClusterHead", embeddings: Tensor) -> Tensor:
        """The embeddings themselves."""
        del head
        return keras.ops.cast(embeddings, "float32")

    def inner(self, clean: Tensor, twins: Tensor) -> Tensor:
        """Mean squared difference."""
        return embedding_mse(clean, twins)

    outer = inner

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        config = super().get_config()
        del config["steps"]
        return config
