"""What all consistency terms have in common: the perturbed twin, and what is compared."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

import keras
import numpy as np
from keras import ops

from clustr_keras.backend import example_noise, examples_of_replica, input_gradient, of_all_replicas
from clustr_keras.integers import checked_integer
from clustr_keras.types import Tensor

if TYPE_CHECKING:
    from clustr_keras.heads import ClusterHead
    from clustr_keras.objective_model import ObjectiveModel

# The largest entry of an attack's gradient on its way into the backbone: the middle of what float16 can hold.
_GRADIENT_SIZE = 256.0


@ops.custom_gradient
def _rescale_gradient(values):
    """The values. Their gradient is multiplied by one number that gives its largest entry a fixed size.

    The attack uses its sign alone, and a half precision backbone would lose what is too small or too large.
    """

    def gradient(*arguments, upstream=None):
        upstream = arguments[0] if upstream is None else upstream
        # One number for all replicas too: batch normalization mixes their gradients.
        largest = ops.max(of_all_replicas(ops.max(ops.abs(upstream), keepdims=True)))
        return upstream * (_GRADIENT_SIZE / ops.maximum(largest, 1e-30))

    return values, gradient


class ConsistencyTerm:
    """A term `weight * D(f(x), f(x'))` with `x'` from ascending a divergence within an l_inf ball around x.

    Every pass runs in training mode, as in the published code. The attack's own gradient reaches no weight. The start
    is drawn from the seed, the step and the number of the example in the global batch alone.

    A subclass says what is compared (`features`) and how (`inner` for the attack, `outer` for the loss).

    Args:
        weight: Float, the factor of the term.
        eps: Float, radius of the l_inf ball, pixels in [0, 1].
        step_size: Float, or one per channel: length of a step of the signed gradient.
        steps: Integer.
        seed: Integer in 0..2^31 - 1, of the starts.
    """

    start = "uniform"

    def __init__(
        self, weight: float, eps: float, step_size: float | Sequence[float], steps: int, seed: int = 0
    ) -> None:
        lengths = [float(length) for length in (step_size if isinstance(step_size, Sequence) else [step_size])]
        self.step_size = lengths if isinstance(step_size, Sequence) else lengths[0]
        if not weight >= 0:
            raise ValueError(f"weight must be at least 0; got {weight}.")
        if not 0 < eps <= 1 or not min(lengths) > 0:
            raise ValueError(
                "eps must lie in (0, 1] and step_size must be positive, for pixels in [0, 1]; "
                f"got {eps}, {self.step_size}."
            )
        if not (isinstance(seed, int | np.integer) and 0 <= seed < 2**31):
            raise ValueError(f"seed must be an integer in 0..2^31 - 1; got {seed!r}.")
        self.weight = float(weight)
        self.eps = float(eps)
        self.steps = checked_integer("steps", steps, 1)
        self.seed = int(seed)

    def __call__(self, model: "ObjectiveModel", images: Tensor, embeddings: Tensor, step: Tensor) -> Tensor:
        """Computes the weighted term of each example.

        Args:
            model: `ClustrClassifier`, or anything with a `backbone` and a `head`.
            images: Floats `[B, H, W, C]` in [0, 1].
            embeddings: Floats `[B, D]`, of the images, from the pass that the loss is computed on.
            step: Int scalar, the number of the training step.

        Returns:
            float32 `[B]`.
        """
        clean = self.features(model.head, embeddings)
        given = ops.stop_gradient(clean)
        perturbed, start = self.perturb(model, images, given, step)
        twins = self.features(model.head, model.backbone(ops.stop_gradient(perturbed), training=True))
        return self.weight * self.outer(clean, twins) + self.of_attack(model.head, given, start)

    def of_attack(self, head: "ClusterHead", clean: Tensor, start: Tensor) -> Tensor | float:
        """What the attack itself adds, `[B]` or 0, given the embeddings that its last step began with."""
        del head, clean, start
        return 0.0

    def perturb(self, model: "ObjectiveModel", images: Tensor, clean: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """The twins `[B, H, W, C]`, and the embeddings `[B, D]` of what the last step began with."""
        images = ops.cast(images, "float32")
        examples = examples_of_replica(ops.shape(images)[0])
        noise = example_noise(self.start, self.seed, step, examples, images.shape[1:])
        perturbed = self.from_noise(images, noise)

        def inner(perturbed):
            embeddings = ops.cast(model.backbone(perturbed, training=True), "float32")
            return self.inner(clean, self.features(model.head, _rescale_gradient(embeddings))), embeddings

        for _ in range(self.steps):
            gradient, embeddings = input_gradient(inner, perturbed, model.backbone.variables + model.head.variables)
            # Where a half precision overflowed all the same there is no direction to go.
            direction = ops.sign(ops.where(ops.isfinite(gradient), gradient, 0.0))
            perturbed = self._project(perturbed + ops.convert_to_tensor(self.step_size) * direction, images)
        return perturbed, embeddings

    def from_noise(self, images: Tensor, noise: Tensor) -> Tensor:
        """The start: uniform in the ball, cut to the pixel range."""
        return self._project(images + self.eps * noise, images)

    def features(self, head: "ClusterHead", embeddings: Tensor) -> Tensor:
        """What is compared, float32 `[B, ...]`."""
        raise NotImplementedError

    def inner(self, clean: Tensor, twins: Tensor) -> Tensor:
        """The divergence that the attack ascends, `[B]`."""
        raise NotImplementedError

    def outer(self, clean: Tensor, twins: Tensor) -> Tensor:
        """The divergence that the loss holds, `[B]`."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "weight": self.weight,
            "eps": self.eps,
            "step_size": self.step_size,
            "steps": self.steps,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes a term from what `get_config` returned."""
        return cls(**config)

    def _project(self, perturbed, images):
        return ops.clip(ops.clip(perturbed, images - self.eps, images + self.eps), 0.0, 1.0)


class ScoreConsistency(ConsistencyTerm):
    """A consistency term between class distributions.

    Args:
        scores: What the distribution is the softmax of: `"log"` for the head's class scores in log space, `"logits"`
            for its distance logits, `"paper"` for the published scores, which saturate.
    """

    def __init__(
        self,
        weight: float,
        eps: float,
        step_size: float | Sequence[float],
        steps: int,
        scores: str = "log",
        seed: int = 0,
    ) -> None:
        super().__init__(weight, eps, step_size, steps, seed)
        if scores not in ("log", "logits", "paper"):
            raise ValueError(f'scores must be "log", "logits" or "paper"; got {scores!r}.')
        self.scores = scores

    def features(self, head: "ClusterHead", embeddings: Tensor) -> Tensor:
        """Class scores `[B, C]`."""
        of_embeddings: dict[str, Callable[[Tensor], Tensor]] = {
            "log": head.log_scores,
            "logits": head,
            "paper": head.paper_scores,
        }
        return of_embeddings[self.scores](embeddings)

    def distribution(self, scores: Tensor) -> Tensor:
        """The distribution of scores: their softmax, and for the published ones their share of the sum."""
        if self.scores == "paper":
            return scores / ops.maximum(ops.sum(scores, axis=-1, keepdims=True), 1e-12)
        return keras.ops.softmax(scores, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "scores": self.scores}
