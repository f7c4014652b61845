"""Attacks a random subset, for attacks too slow for every example."""

import numpy as np

from clustr_keras.attacks.arguments import checked_arguments
from clustr_keras.attacks.attack import Attack, AttackResult, Progress
from clustr_keras.data.sampling import random_rows
from clustr_keras.types import ArrayLike


class OnSubset:
    """Runs an attack on some images, drawn at random, and leaves the others as they are.

    Args:
        attack: Attack with the interface of `ProjectedGradientDescent`.
        count: Integer, number of images; all, where there are no more.
        seed: Integer; equal seeds draw equal subsets of equally many images.

    Raises:
        ValueError: If `count` < 1.

    Example:

    >>> OnSubset(CarliniWagner(model), count=64)(x_test, y_test, eps=0.5).is_flipped.sum()
    """

    def __init__(self, attack: Attack, count: int = 64, seed: int = 0) -> None:
        if count < 1:
            raise ValueError(f"count must be at least 1; got {count}.")
        self.attack = attack
        self.count = count
        self.seed = seed
        self.norm = attack.norm
        self.minimizes_norm = getattr(attack, "minimizes_norm", False)

    @property
    def name(self) -> str:
        """What reports call this attack."""
        return f"{self.attack.name}, on at most {self.count} examples"

    def attempts(self, count: int) -> int:
        """What `progress` counts up to for `count` images."""
        return self.attack.attempts(min(count, self.count))

    def __call__(
        self, images: ArrayLike, labels: ArrayLike, eps: ArrayLike, progress: Progress | None = None
    ) -> AttackResult:
        """Attacks images; see `ProjectedGradientDescent.__call__`."""
        images, labels, eps = checked_arguments(images, labels, eps)
        rows = random_rows(len(images), self.count, self.seed)
        result = self.attack(images[rows], labels[rows], eps[rows], progress=progress)
        whole = AttackResult(images.copy(), np.zeros(len(images), bool), labels.copy(), np.zeros(len(images)))
        whole.adversarial[rows], whole.is_flipped[rows] = result.adversarial, result.is_flipped
        whole.class_ids[rows], whole.distance[rows] = result.class_ids, result.distance
        return whole
