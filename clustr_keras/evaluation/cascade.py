"""Robust accuracy by one attack after the other, each on what the others have left."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

import numpy as np

from clustr_keras.attacks.attack import Attack
from clustr_keras.evaluation.flips import Flips
from clustr_keras.evaluation.stages import Stages, settings_of
from clustr_keras.evaluation.threat_model import ThreatModel
from clustr_keras.types import Bools, Floats, Ints


@dataclasses.dataclass(frozen=True)
class AttackScore:
    """What one attack did within one threat model.

    Args:
        name: Short name of the attack.
        description: The attack and its settings.
        cumulative: Share of all examples that is right and stood this attack and all before it.
        attacked: Integer, number of examples that it attacked.
        alone: Share of the subset that is right and stood this attack alone; `None` for what was found elsewhere.
    """

    name: str
    description: str
    cumulative: float
    attacked: int
    alone: float | None


@dataclasses.dataclass(frozen=True)
class Round:
    """What the attacks of a cascade left within one threat model.

    Args:
        scores: An `AttackScore` for each attack, in their order.
        attempts: float32 `[N, H, W, C]`, the last attempt on each image; the image itself where nothing was tried.
    """

    scores: tuple[AttackScore, ...]
    attempts: Floats


@dataclasses.dataclass(frozen=True)
class ThreatResult:
    """Robust accuracy within one threat model.

    Args:
        threat_model: `ThreatModel`.
        scores: An `AttackScore` for each attack, in their order.
        is_standing: bool `[N]`, right, and flipped by no attack.
        adversarial: float32 `[N, H, W, C]`: the smallest flip where one was found, else the last attempt; the image
            itself where nothing was tried.
        flipped_to: int64 `[N]`, the class of `adversarial`.
    """

    threat_model: ThreatModel
    scores: tuple[AttackScore, ...]
    is_standing: Bools
    adversarial: Floats
    flipped_to: Ints

    @property
    def robust_accuracy(self) -> float:
        """The worst case over all attacks, example by example: the share that is standing."""
        return float(self.is_standing.mean())


def cascade(
    attacks: Mapping[str, Attack],
    threat_models: Collection[ThreatModel],
    class_ids: Ints,
    subset: Ints,
    flips: Flips,
    stages: Stages,
    progress: Callable[[str], object] | None = None,
) -> dict[ThreatModel, Round]:
    """Runs attacks of one norm within its threat models, from the smallest eps to the largest.

    An example that has fallen at one eps has fallen at every larger one, and to whatever flip is known already. An
    attack that minimizes the norm runs once, in the largest ball, and what it finds counts wherever it fits.

    Args:
        attacks: Dict, name -> attack.
        threat_models: Those of one norm.
        class_ids: int64 `[N]`, predicted classes.
        subset: Ints, the examples that each attack is run on alone.
        flips: `Flips` of the images, which takes what is found.
        stages: `Stages`.
        progress: Function of a string, called before each attack.

    Returns:
        A dict, `ThreatModel` -> `Round`, by eps.
    """
    images, labels = flips.images, flips.labels
    is_right = class_ids == labels
    largest = max(threat.eps for threat in threat_models)
    rounds: dict[ThreatModel, Round] = {}
    found: _Found = {}
    attempts = images.copy()
    for threat in sorted(threat_models):
        scores: tuple[AttackScore, ...] = ()
        for name, attack in attacks.items():
            rows = np.flatnonzero(is_right & ~flips.fits(threat))
            if progress is not None:
                progress(f"{threat}: {attack.name}, {len(rows)} examples left")
            runner = _Runner(attack, name, threat, largest, images, labels, stages, found)
            adversarial, to, _ = runner(rows)
            attempts[rows] = adversarial
            flips.add(rows, adversarial, to)
            right = subset[is_right[subset]]
            adversarial, to, is_flipped = runner(right)
            flips.add(right, adversarial, to)
            alone = float((len(right) - is_flipped.sum()) / len(subset))
            left = float((is_right & ~flips.fits(threat)).mean())
            scores += (AttackScore(name, attack.name, left, len(rows), alone),)
        rounds[threat] = Round(scores, attempts.copy())
    return rounds


def threat_results(rounds: Mapping[ThreatModel, Round], class_ids: Ints, flips: Flips) -> tuple[ThreatResult, ...]:
    """Robust accuracy by all flips that are known at the end.

    Args:
        rounds: Dict, `ThreatModel` -> `Round`.
        class_ids: int64 `[N]`, predicted classes.
        flips: `Flips`.

    Returns:
        A tuple of `ThreatResult`.
    """
    results = []
    for threat, of_threat in rounds.items():
        scores = of_threat.scores
        has_fallen = flips.fits(threat) & (class_ids == flips.labels)
        is_standing = ~has_fallen & (class_ids == flips.labels)
        left = float(is_standing.mean())
        if left < scores[-1].cumulative:
            description = "flips of other threat models, and of the diagnostics"
            scores += (AttackScore("found elsewhere", description, left, 0, None),)
        shape = (-1, *[1] * (flips.images.ndim - 1))
        adversarial = np.where(has_fallen.reshape(shape), flips.adversarial[threat.norm], of_threat.attempts)
        flipped_to = np.where(has_fallen, flips.class_ids[threat.norm], class_ids)
        results.append(ThreatResult(threat, scores, is_standing, adversarial, flipped_to))
    return tuple(results)


# Of the attacks that minimize the norm, by name and row: the smallest flip, its class and its distance.
_Found: TypeAlias = dict[str, dict[int, tuple[Floats, int, float]]]


class _Runner:
    """One attack within one threat model, on rows of the images."""

    def __init__(
        self,
        attack: Attack,
        name: str,
        threat: ThreatModel,
        largest: float,
        images: Floats,
        labels: Ints,
        stages: Stages,
        found: _Found,
    ) -> None:
        self.attack, self.name, self.threat, self.largest = attack, name, threat, largest
        self.images, self.labels, self.stages, self.found = images, labels, stages, found
        self.minimizes_norm = getattr(attack, "minimizes_norm", False)

    def __call__(self, rows: Ints) -> tuple[Floats, Ints, Bools]:
        """Adversarial images, their classes, and which of them are flips within eps."""
        if len(rows) == 0:
            return self.images[rows], self.labels[rows], np.zeros(0, bool)
        if not self.minimizes_norm:
            result = self._run(rows, self.threat.eps)
            return result.adversarial, result.class_ids, result.is_flipped
        known = self.found.setdefault(self.name, {})
        missing = np.array([row for row in rows.tolist() if row not in known], "int64")
        if len(missing):
            result = self._run(missing, self.largest)
            for place, row in enumerate(missing.tolist()):
                known[row] = result.adversarial[place], result.class_ids[place], result.distance[place]
        parts = [known[row] for row in rows.tolist()]
        adversarial, class_ids = np.stack([part[0] for part in parts]), np.array([part[1] for part in parts])
        distance = np.array([part[2] for part in parts])
        is_inside = distance <= self.threat.eps
        adversarial = np.where(is_inside[:, None, None, None], adversarial, self.images[rows])
        class_ids = np.where(is_inside, class_ids, self.labels[rows])
        return adversarial, class_ids, is_inside & (class_ids != self.labels[rows])

    def _run(self, rows, eps):
        settings = [self.name, settings_of(self.attack), self.threat.norm, eps, rows.tolist()]
        return self.stages(settings, lambda: self.attack(self.images[rows], self.labels[rows], eps))
