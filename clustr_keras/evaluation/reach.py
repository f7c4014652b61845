"""How near the attacks come to the certified boundary: the smallest flips found, over the radii."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from clustr_keras.attacks.arguments import distances
from clustr_keras.attacks.attack import Attack
from clustr_keras.attacks.boundary_walk import ClearFlips, slide_flips
from clustr_keras.attacks.steps import compiled
from clustr_keras.classifier import ClustrClassifier
from clustr_keras.evaluation.audit import as_images, check_attacks, default_attacks
from clustr_keras.types import ArrayLike, Floats

# Balls to attack in, by their radius over that in real arithmetic; the last one holds all images.
_LADDER = (1.02, 1.1, 1.25, 1.5, 2.0, 4.0, float("inf"))
_QUANTILES = (0.5, 0.9, 0.99, 1.0)
# float32 radii are rounded, and so are the pixels of a flip.
_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class ReachResult:
    """The smallest flips that all attacks together found.

    Args:
        attacks: Names of the attacks.
        distance: float64 `[B]`, l_2 norm of the smallest flip; infinite where none was found.
        radius: float64 `[B]`, the radius in real arithmetic, without rounding slack.
        adversarial: float32 `[B, H, W, C]`, those flips; the image itself where none was found.

    Attributes:
        ratio: float64 `[B]`, `distance / radius`; NaN where the radius is 0, which nothing can be measured by.
    """

    attacks: tuple[str, ...]
    distance: Floats
    radius: Floats
    adversarial: Floats

    @property
    def ratio(self) -> Floats:
        """`distance / radius`, NaN where the radius is 0."""
        return np.divide(self.distance, self.radius, out=np.full(len(self.radius), np.nan), where=self.radius > 0)

    def share_within(self, factor: float = 1.02) -> float:
        """Share of the examples with a radius whose ratio lies between 1 and `factor`; NaN if there are none."""
        ratio = self.ratio[self.radius > 0]
        return float(np.mean((ratio >= 1.0 - _ROUNDING) & (ratio <= factor))) if len(ratio) else float("nan")

    def as_dict(self) -> dict[str, Any]:
        """The figures, ready for JSON: a quantile that is infinite, or of no examples, is `None`."""
        ratio = self.ratio[self.radius > 0]
        # Quantiles of what was found, with infinity in its place: no interpolation across it.
        values = np.quantile(ratio, _QUANTILES, method="higher") if len(ratio) else np.full(len(_QUANTILES), np.nan)
        share = self.share_within()
        return {
            "examples": len(self.radius),
            "with_radius": len(ratio),
            "attacks": list(self.attacks),
            "flips_found": int(np.isfinite(self.distance).sum()),
            "ratio_below_1": int((ratio < 1.0 - _ROUNDING).sum()),
            "share_within_1.02": share if np.isfinite(share) else None,
            "ratio_quantiles": {
                f"{quantile:g}": float(value) if np.isfinite(value) else None
                for quantile, value in zip(_QUANTILES, values, strict=True)
            },
        }


def reach(
    model: ClustrClassifier,
    data: ArrayLike | tf.data.Dataset,
    attacks: Sequence[Attack] | None = None,
    batch_size: int = 256,
    walk_steps: int = 15,
    subset: int = 64,
    seed: int = 0,
    progress: Callable[[float], object] | None = None,
) -> ReachResult:
    """Measures the strength of the attacks: the smallest flip found, over the radius in real arithmetic.

    Each attack works in balls around each image that grow until one of its flips is inside. The smallest flip of all is
    pulled towards its image and slid along the decision boundary. A flip counts where its margin is clear of the
    rounding of the logits. A ratio below 1, by more than the rounding of the backbone, refutes the radius; one near 1
    shows both that the radius is tight and that the attacks of an audit would find one that claims too much.

    Args:
        model: `ClustrClassifier`.
        data: Floats `[B, H, W, C]` in [0, 1], or a `tf.data.Dataset` of batches of images or (images, labels).
        attacks: Attacks in l_2 on `model.certifier().deployed_logits`; those of `audit` by default.
        batch_size: Integer, of the default attacks and of the walk.
        walk_steps: Integer, moves along the boundary.
        subset: Integer, number of examples for Carlini-Wagner, if `attacks` are the default.
        seed: Integer, of the default attacks.
        progress: Function of the share that is done, from 0 to 1.

    Returns:
        A `ReachResult`.

    Raises:
        ValueError: If the backbone has no proved bound, an attack is not one in l_2, or an image is not finite or
            leaves [0, 1].

    Example:

    >>> reach(model, x_test).share_within(1.02)
    """
    images = as_images(model, data)
    certificate = model.certify(images)
    attacks = default_attacks(model, batch_size, subset, seed) if attacks is None else attacks
    check_attacks(attacks)
    labels, radius = certificate.class_ids, certificate.radius.astype("float64")
    flips = ClearFlips(compiled(model.certifier().deployed_logits), batch_size)
    best, distance = images.copy(), np.full(len(images), np.inf)
    stages = len(attacks) + 1
    for number, attack in enumerate(attacks):
        found = _grow(attack, flips, images, labels, radius)
        nearer = (flips.excess(found, labels) > 0) & (distances(found, images) < distance)
        best[nearer], distance[nearer] = found[nearer], distances(found, images)[nearer]
        _report(progress, (number + 1) / stages)
    best = slide_flips(
        flips,
        images,
        best,
        labels,
        walk_steps,
        lambda step: _report(progress, (len(attacks) + step / max(walk_steps, 1)) / stages),
    )
    _report(progress, 1.0)
    distance = np.where(np.isfinite(distance), distances(best, images), np.inf)
    return ReachResult(tuple(attack.name for attack in attacks), distance, radius, best)


def _report(progress, share):
    if progress is not None:
        progress(share)


def _grow(attack, flips, images, labels, radius):
    """Flips of one attack, from the smallest ball in which it has one; images where there is none."""
    found = images.copy()
    left = np.arange(len(images))
    all_images = np.sqrt(images[0].size)
    for factor in _LADDER[-1:] if getattr(attack, "minimizes_norm", False) else _LADDER:
        eps = np.full(len(left), all_images) if np.isinf(factor) else np.minimum(factor * radius[left], all_images)
        adversarial = attack(images[left], labels[left], eps).adversarial
        is_flip = flips.excess(adversarial, labels[left]) > 0
        found[left[is_flip]] = adversarial[is_flip]
        left = left[~is_flip]
        if not len(left):
            break
    return flips.shrink(images, found, labels)
