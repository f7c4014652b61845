"""Attacks inside the certified radius, in search of a counterexample."""

import dataclasses
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from clustr_keras.attacks import BisectorAttack, CarliniWagner, OnSubset, ProjectedGradientDescent
from clustr_keras.attacks.arguments import distances
from clustr_keras.attacks.attack import Attack, Logits, Progress
from clustr_keras.attacks.steps import compiled
from clustr_keras.backend import require_tensorflow
from clustr_keras.certification import Certifier
from clustr_keras.classifier import Certificate, ClustrClassifier
from clustr_keras.data.checks import check_images
from clustr_keras.types import ArrayLike, Bools, Floats, Ints


@dataclasses.dataclass(frozen=True)
class Violation:
    """A flip inside a certified radius.

    Args:
        index: Integer, of the example.
        distance: Float, l_2 norm of the difference, recomputed in float64 from the float32 images.
        certified_radius: Float, what was claimed.
        class_before: Integer, the class of the example.
        class_after: Integer, that of the counterexample.
        attack: Name of the attack that found it.
    """

    index: int
    distance: float
    certified_radius: float
    class_before: int
    class_after: int
    attack: str


@dataclasses.dataclass(frozen=True)
class AuditResult:
    """Outcome of an audit.

    Args:
        examples: Integer, number of examples audited.
        attacks: Names of the attacks that were run on them.
        violations: int64, the indices of examples with a flip inside their certified radius. There must be none.
        counterexamples: float32 images `[violations, H, W, C]`, for each the smallest of those flips.
        records: A `Violation` for each.
    """

    examples: int
    attacks: tuple[str, ...]
    violations: Ints
    counterexamples: Floats
    records: tuple[Violation, ...]

    def as_dict(self) -> dict[str, Any]:
        """The counts, ready for JSON."""
        return {"examples": self.examples, "attacks": list(self.attacks), "violations": len(self.violations)}

    def save_counterexamples(self, images: Floats, folder: pathlib.Path, ids: Ints | None = None) -> list[pathlib.Path]:
        """Writes `counterexample-<id>.npz` for each violation, and removes those of an earlier audit.

        Each holds `image`, `adversarial`, `distance`, `certified_radius`, `class_before`, `class_after`, `attack`, and
        the id as `index`.

        Args:
            images: The images that were audited.
            folder: `pathlib.Path`, made if need be.
            ids: Integers `[B]`, what the images are called; their indices by default.

        Returns:
            The paths.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("counterexample-*.npz"):
            old.unlink()
        paths = []
        for record, adversarial in zip(self.records, self.counterexamples, strict=True):
            name = record.index if ids is None else int(ids[record.index])
            paths.append(folder / f"counterexample-{name}.npz")
            fields = dataclasses.asdict(record) | {"index": name}
            image = np.asarray(images[record.index], "float32")
            np.savez(paths[-1], image=image, adversarial=adversarial, **fields)
        return paths


def audit(
    model: ClustrClassifier,
    data: ArrayLike | tf.data.Dataset,
    attacks: Sequence[Attack] | None = None,
    batch_size: int = 256,
    subset: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> AuditResult:
    """Attacks every example just inside its certified radius.

    A violation is an image whose deployed class differs from that of the original while the l_2 norm of the difference,
    recomputed in float64 from the float32 images, is below the certified radius. One is enough to refute the
    certificate; none proves nothing, but is what a right certificate shows however strong the attacks are. How strong
    they are, `reach` shows. Examples with a radius of 0 claim nothing and hold trivially.

    Args:
        model: `ClustrClassifier`.
        data: Floats `[B, H, W, C]` in [0, 1], or a `tf.data.Dataset` of batches of images or (images, labels).
        attacks: Attacks in l_2 on `model.certifier().deployed_logits`; those of `default_attacks` if there are none
            given.
        batch_size, subset, seed: Integers, of the default attacks.
        progress: Function of the attempts that are over, out of the sum of `attempts(B)` over the attacks.

    Returns:
        An `AuditResult`.

    Raises:
        ValueError: If the model has no certified radius, an attack is not one in l_2, or an image is not finite or
            leaves [0, 1].

    Example:

    >>> len(audit(model, x_test).violations)
    0
    """
    require_tensorflow("an audit")
    images = as_images(model, data)
    certificate = model.certify(images)
    if certificate.certified_radius is None:
        raise ValueError("the model has no certified radius to audit: its backbone has no rounding analysis.")
    attacks = default_attacks(model, batch_size, subset, seed) if attacks is None else attacks
    check_attacks(attacks)
    radius = certificate.certified_radius.astype("float64")
    smallest: dict[int, Violation] = {}
    counterexamples: dict[int, Floats] = {}
    over = 0
    for attack in attacks:
        done = [0]

        def report(attempts, done=done, over=over):
            done[0] = attempts
            if progress is not None:
                progress(over + attempts)

        result = attack(images, certificate.class_ids, radius, progress=report)
        over += done[0]
        distance = distances(result.adversarial, images)
        flips = flips_inside(
            model.certify, certificate.class_ids, radius, result.adversarial, distance, result.is_flipped, smallest
        )
        for index, before, after in flips:
            smallest[index] = Violation(index, float(distance[index]), float(radius[index]), before, after, attack.name)
            counterexamples[index] = result.adversarial[index]
    violations = sorted(smallest)
    found = np.reshape([counterexamples[index] for index in violations], (-1, *images.shape[1:]))
    return AuditResult(
        examples=len(images),
        attacks=tuple(attack.name for attack in attacks),
        violations=np.array(violations, dtype="int64"),
        counterexamples=found.astype("float32"),
        records=tuple(smallest[index] for index in violations),
    )


class _KnownFlip(Protocol):
    @property
    def distance(self) -> float: ...


def flips_inside(
    certify: Callable[[Floats], Certificate],
    class_ids: Ints,
    radius: Floats,
    adversarial: Floats,
    distance: Floats,
    is_flipped: Bools,
    smallest: Mapping[int, _KnownFlip],
) -> Iterator[tuple[int, int, int]]:
    """Flips inside a certified radius that stand in the model that made the certificate.

    Args:
        certify: Function from images to a `Certificate`.
        class_ids, radius: int64 and float64 `[B]`, what it says of the images before.
        adversarial: float32 images `[B, H, W, C]`.
        distance: float64 `[B]`, their l_2 distances.
        is_flipped: bool `[B]`, what an attack says.
        smallest: Dict, index -> what is known already, with its `distance`; no larger flip is looked at.

    Yields:
        Integers: index, class before, class after.
    """
    found = np.flatnonzero(is_flipped & (distance < radius)).tolist()
    found = [index for index in found if index not in smallest or distance[index] < smallest[index].distance]
    if found:
        for index, after in zip(found, certify(adversarial[found]).class_ids.tolist(), strict=True):
            before = int(class_ids[index])
            if after != before:
                yield index, before, after


def default_attacks(model: ClustrClassifier, batch_size: int = 256, subset: int = 64, seed: int = 0) -> list[Attack]:
    """The attacks of an audit: PGD with restarts, the bisector attack, and Carlini-Wagner on a random subset.

    Args:
        model: `ClustrClassifier`.
        batch_size: Integer.
        subset: Integer, number of examples for Carlini-Wagner.
        seed: Integer, of the subset and of PGD's starts.

    Returns:
        A list of attacks in l_2 on the deployed logits.

    Example:

    >>> len(audit(model, x_test, attacks=default_attacks(model, seed=1)).violations)
    0
    """
    certifier = model.certifier()
    return attacks_on_radii(compiled(certifier.deployed_logits), certifier, batch_size, subset, seed)


def attacks_on_radii(
    logits: Logits, certifier: Certifier | None = None, batch_size: int = 256, subset: int = 64, seed: int = 0
) -> list[Attack]:
    """The same of logits, and of a `Certifier` if there is one: the bisector attack needs its parts."""
    bisector = [] if certifier is None else [BisectorAttack(certifier, batch_size=batch_size)]
    return [
        ProjectedGradientDescent(logits, "l_2", steps=40, restarts=5, batch_size=batch_size, seed=seed),
        *bisector,
        OnSubset(CarliniWagner(logits, batch_size=min(batch_size, subset)), subset, seed),
    ]


def check_attacks(attacks: Collection[Attack]) -> None:
    """Refuses a list of attacks that shows nothing about l_2 radii."""
    if not attacks:
        raise ValueError("an audit without attacks shows nothing; pass at least one attack.")
    if any(attack.norm != "l_2" for attack in attacks):
        raise ValueError("certified radii are l_2, so the attacks of an audit must be too.")


def as_images(model: ClustrClassifier, data: ArrayLike | tf.data.Dataset) -> Floats:
    """float32 images `[B, H, W, C]` of an array or a data set, checked against the model's input.

    Args:
        model: `ClustrClassifier`.
        data: Array, or a `tf.data.Dataset` of batches of images or of tuples that begin with them.

    Raises:
        ValueError: If they are no images of the model's shape in [0, 1], or there are none.
    """
    if isinstance(data, tf.data.Dataset):
        batches = [np.asarray(batch[0] if isinstance(batch, tuple) else batch) for batch in data]
        if not batches:
            raise ValueError("the data set is empty; expected at least one batch of images.")
        data = np.concatenate(batches)
    images = np.asarray(data)
    if np.issubdtype(images.dtype, np.floating):
        images = images.astype("float32")
    check_images(images, model.backbone.input_shape[1:])
    return images
