"""TRADES: several steps on the Kullback-Leibler divergence."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from clustr_keras.consistency.term import ScoreConsistency
from clustr_keras.losses.consistency import cross_entropy_between, kl_divergence
from clustr_keras.types import Tensor

# Standard deviation of the start, as published.
_START = 1e-3


@keras.saving.register_keras_serializable(package="clustr_keras")
class TRADES(ScoreConsistency):
    """`weight * D(p(x), scores(x'))`, with `x'` from several signed-gradient steps on the KL divergence.

    The start is x plus normal noise of standard deviation 0.001. In the paper's 10-step variant D is the cross-entropy
    and the steps are 0.03 long in normalized units; in TRADES itself D is the KL divergence.

    Args:
        weight: Float; beta.
        eps: Float, radius of the l_inf ball, pixels in [0, 1].
        step_size: Float, or one per channel: length of a step, pixels in [0, 1].
        steps: Integer.
        outer_divergence: `"kl"` or `"cross_entropy"`.
        scores: `"log"`, `"logits"` or `"paper"`: what the class distribution is made of.
        seed: Integer, of the starts.

    Example:

    >>> model.compile("adam", loss=MagnetLoss(), consistency=TRADES(weight=6.0))

    Reference:
        Zhang et al., Theoretically Principled Trade-off between Robustness and Accuracy, ICML 2019.
    """

    start = "normal"

    def __init__(
        self,
        weight: float = 6.0,
        eps: float = 8 / 255,
        step_size: float | Sequence[float] = 2 / 255,
        steps: int = 10,
        outer_divergence: str = "kl",
        scores: str = "log",
        seed: int = 0,
    ) -> None:
        super().__init__(weight, eps, step_size, steps, scores, seed)
        if outer_divergence not in ("kl", "cross_entropy"):
            raise ValueError(f'outer_divergence must be "kl" or "cross_entropy"; got {outer_divergence!r}.')
        self.outer_divergence = outer_divergence

    def from_noise(self, images: Tensor, noise: Tensor) -> Tensor:
        """The start: a little normal noise."""
        return ops.clip(images + _START * noise, 0.0, 1.0)

    def inner(self, clean: Tensor, twins: Tensor) -> Tensor:
        """KL divergence of the twins' distribution from the images'."""
        return kl_divergence(self.distribution(clean), twins)

    def outer(self, clean: Tensor, twins: Tensor) -> Tensor:
        """KL divergence, or the cross-entropy."""
        divergence = kl_divergence if self.outer_divergence == "kl" else cross_entropy_between
        return divergence(self.distribution(clean), twins)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "outer_divergence": self.outer_divergence}
