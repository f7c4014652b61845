"""QTRADES, the one-step consistency term of the paper."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from clustr_keras.consistency.term import ScoreConsistency
from clustr_keras.losses.consistency import cross_entropy_between
from clustr_keras.types import Tensor

if TYPE_CHECKING:
    from clustr_keras.heads import ClusterHead


@keras.saving.register_keras_serializable(package="clustr_keras")
class QTRADES(ScoreConsistency):
    """`weight * CE(p(x), scores(x'))`, with `x'` one signed-gradient step from a uniform start in the l_inf ball.

    The step ascends the same cross-entropy, is projected back to the ball and the pixel range, and regards p(x) as
    given; in the loss p(x) has its gradient. Three passes in all: one for the images, one for the attack, one for the
    twins.

    Args:
        weight: Float, lambda.
        eps: Float, radius of the l_inf ball, pixels in [0, 1].
        step_size: Float, length of the step; 1.25 eps by default.
        scores: `"log"`, `"logits"` or `"paper"`: what the class distribution is made of.
        paper_gradient: Whether the gradient of the attack's loss in the weights is added to that of the training loss,
            as it was in the published code, by accident.
        seed: Integer, of the starts.

    Example:

    >>> model.compile("adam", loss=MagnetLoss(), consistency=QTRADES(weight=8.0))

    Reference:
        Alfarra et al., Rethinking Clustering for Robustness, BMVC 2021.
    """

    def __init__(
        self,
        weight: float = 8.0,
        eps: float = 8 / 255,
        step_size: float | Sequence[float] | None = None,
        scores: str = "log",
        paper_gradient: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(weight, eps, 1.25 * eps if step_size is None else step_size, steps=1, scores=scores, seed=seed)
        self.paper_gradient = bool(paper_gradient)

    def of_attack(self, head: "ClusterHead", clean: Tensor, start: Tensor) -> Tensor | float:
        """The attack's loss at its start, with its gradient in the weights and not its value."""
        if not self.paper_gradient:
            return 0.0
        loss = self.inner(clean, self.features(head, start))
        return loss - ops.stop_gradient(loss)

    def inner(self, clean: Tensor, twins: Tensor) -> Tensor:
        """Cross-entropy of the twins with the images' distribution."""
        return cross_entropy_between(self.distribution(clean), twins)

    outer = inner

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        config = super().get_config()
        del config["steps"]
        return {**config, "paper_gradient": self.paper_gradient}
