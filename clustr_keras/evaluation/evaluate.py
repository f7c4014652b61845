"""Clean, certified and robust accuracy of a classifier, and whether its evaluation can be believed."""

import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import keras
import numpy as np

import clustr_keras
from clustr_keras.attacks.attack import Logits
from clustr_keras.classifier import Certificate
from clustr_keras.data.checks import check_images, check_labels
from clustr_keras.data.sampling import random_rows
from clustr_keras.evaluation.broken import BrokenCertificate, broken_certificates
from clustr_keras.evaluation.cascade import Round, ThreatResult, cascade, threat_results
from clustr_keras.evaluation.diagnostics import Diagnostic, Diagnostics
from clustr_keras.evaluation.flips import Flips
from clustr_keras.evaluation.interval import wilson_interval
from clustr_keras.evaluation.report import certified_accuracy_curve
from clustr_keras.evaluation.stages import Stages
from clustr_keras.evaluation.suite import DEFAULT_ATTACKS, attack_suite
from clustr_keras.evaluation.target import Target, as_target
from clustr_keras.evaluation.threat_model import DEFAULT_THREAT_MODELS, ThreatModel
from clustr_keras.types import ArrayLike, Floats, Ints

DEFAULT_RADII = (36 / 255, 0.3, 0.5, 0.75, 1.0, 1.25, 1.58, 2.0)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found out about a classifier on N examples.

    Args:
        target: `Target`.
        images, labels: float32 `[N, H, W, C]` and int64 `[N]`.
        ids: int64 `[N]`, what the examples are called: their places in the data set.
        class_ids: int64 `[N]`, predicted.
        radius, certified_radius: Floats `[N]`, in real arithmetic and less the rounding slack, or `None`.
        certified_accuracy: Dict, radius -> share; empty where nothing is certified.
        uncertified_accuracy: Dict, the same of radii in real arithmetic, where only these are known; empty otherwise.
        threats: A `ThreatResult` for each threat model.
        diagnostics: A `Diagnostic` for each sign of masked gradients.
        broken: A `BrokenCertificate` for each flip inside a certified radius.
        smallest_flips: Dict, norm -> float64 `[N]`, distance of the smallest flip found, infinite where there is none.
        subset_size: Integer, number of examples that attacks and diagnostics ran on alone.
        seconds: Float.
        seed: Integer.
    """

    target: Target
    images: Floats
    labels: Ints
    ids: Ints
    class_ids: Ints
    radius: Floats | None
    certified_radius: Floats | None
    certified_accuracy: dict[float, float]
    uncertified_accuracy: dict[float, float]
    threats: tuple[ThreatResult, ...]
    diagnostics: tuple[Diagnostic, ...]
    broken: tuple[BrokenCertificate, ...]
    smallest_flips: dict[str, Floats]
    subset_size: int
    seconds: float
    seed: int

    @property
    def clean_accuracy(self) -> float:
        """Share of the examples that is right."""
        return float((self.class_ids == self.labels).mean())

    @property
    def proved_radius(self) -> Floats | None:
        """`certified_radius`, or `radius`, in real arithmetic, where nothing is certified; `None` without either."""
        return self.radius if self.certified_radius is None else self.certified_radius

    @property
    def failed(self) -> list[str]:
        """Names of the diagnostics that failed."""
        return [diagnostic.name for diagnostic in self.diagnostics if diagnostic.passed is False]

    @property
    def not_run(self) -> list[str]:
        """Names of the diagnostics that say nothing: without a surrogate, or on too few examples."""
        return [diagnostic.name for diagnostic in self.diagnostics if diagnostic.passed is None]

    @property
    def passed(self) -> bool:
        """Whether no diagnostic failed and no certificate was broken."""
        return not self.failed and not self.broken

    def as_dict(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        count = len(self.labels)
        proved = "uncertified_accuracy" if self.uncertified_accuracy else "certified_accuracy"
        shares = {f"{radius:.4g}": share for radius, share in getattr(self, proved).items()}
        return {
            "model": self.target.name,
            "model_fingerprint": self.target.fingerprint,
            "versions": {"clustr_keras": clustr_keras.__version__, "keras": keras.__version__},
            "examples": count,
            "subset": self.subset_size,
            "seed": self.seed,
            "clean_accuracy": self.clean_accuracy,
            "clean_accuracy_interval": wilson_interval(self.clean_accuracy, count),
            proved: shares,
            f"{proved}_interval": {radius: wilson_interval(share, count) for radius, share in shares.items()},
            "robust_accuracy": {str(threat.threat_model): threat.robust_accuracy for threat in self.threats},
            "threat_models": [
                {
                    "norm": threat.threat_model.norm,
                    "eps": threat.threat_model.eps,
                    "robust_accuracy": threat.robust_accuracy,
                    "interval": wilson_interval(threat.robust_accuracy, count),
                    "attacks": [self._score_as_dict(score) for score in threat.scores],
                }
                for threat in self.threats
            ],
            "diagnostics": [dataclasses.asdict(diagnostic) for diagnostic in self.diagnostics],
            "broken_certificates": [
                {name: value for name, value in vars(found).items() if name != "adversarial"}
                | {"index": int(self.ids[found.index])}
                for found in self.broken
            ],
            "passed": self.passed,
            "seconds": round(self.seconds, 1),
        }

    def _score_as_dict(self, score):
        interval = None if score.alone is None else wilson_interval(score.alone, self.subset_size)
        return dataclasses.asdict(score) | {"alone_interval": interval}


def evaluate(
    model: keras.Model | Target | str | os.PathLike[str],
    images: ArrayLike,
    labels: ArrayLike,
    threat_models: Iterable[ThreatModel] = DEFAULT_THREAT_MODELS,
    attacks: Collection[str] = DEFAULT_ATTACKS,
    scores: str | None = None,
    radii: Sequence[float] = DEFAULT_RADII,
    subset: int = 500,
    surrogate: Logits | None = None,
    folder: str | os.PathLike[str] | None = None,
    batch_size: int = 256,
    seed: int = 0,
    progress: Callable[[str], object] | None = None,
    ids: ArrayLike | None = None,
) -> Evaluation:
    """Evaluates a classifier by what can be proved about it and by what attacks can do to it.

    Within each threat model the attacks run one after the other, each on the examples that the others have left. Beside
    that stands the number of each attack on its own, on a random subset, where `Diagnostics` look for masked gradients
    too: in each norm, within the threat model that the attacks found neither easy nor hard. The robust accuracy is the
    worst case over every flip found on the way, example by example, whatever attack it is from and whatever ball it was
    made for. No flip may lie inside a certified radius, and attacks go looking for some there.

    Args:
        model: `ClustrClassifier`, another Keras classifier, a `Target`, or the path of a SavedModel; see `as_target`.
        images: Floats `[N, H, W, C]` in [0, 1].
        labels: Class ids `[N]`.
        threat_models: Of type `ThreatModel`.
        attacks: Names of attacks, see `attack_suite`.
        scores: Of a `ClustrClassifier`, the scores to attack, see `as_target`.
        radii: Floats, for certified accuracy.
        subset: Integer, number of examples that each attack and the diagnostics run on alone.
        surrogate: Function from images to logits, for attacks that are carried over, see `train_surrogate`.
        folder: Where to keep what each attack found; an interrupted evaluation of the same model goes on from there.
        batch_size, seed: Integers.
        progress: Function of a string, called before each attack.
        ids: Ints `[N]`, what reports call the examples; 0 to N - 1 by default.

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: If the model is no image classifier, data does not fit it, or there is no attack of a name.

    Example:

    >>> evaluation = evaluate(model, x_test, y_test, [ThreatModel("l_2", 0.5)])
    >>> evaluation.clean_accuracy, evaluation.threats[0].robust_accuracy, evaluation.failed

    Reference:
        Carlini et al., On Evaluating Adversarial Robustness, 2019; Croce and Hein, ICML 2020, for the worst case over
        attacks.
    """
    start = time.perf_counter()
    target = as_target(model, scores)
    images = np.asarray(images, "float32")
    check_images(images, target.image_shape)
    check_labels(labels, target.num_classes, len(images))
    labels = np.asarray(labels, "int64").reshape(-1)
    threat_models = sorted(set(threat_models), reverse=True)
    if not threat_models:
        raise ValueError("an evaluation needs at least one threat model.")
    class_ids, _ = target.predict(images, batch_size)
    rows = random_rows(len(images), subset, seed)
    if not (class_ids[rows] == labels[rows]).any():
        raise ValueError("the model gets none of the examples of the subset right, so attacks show nothing about it.")
    # Of a model without a fingerprint nothing is kept: it might be taken for another one.
    folder = None if target.fingerprint is None else folder
    stages = Stages(folder, clustr_keras.__version__, str(target.fingerprint), images, labels)

    flips = Flips(images, labels)
    rounds: dict[ThreatModel, Round] = {}
    groups = {norm: list(group) for norm, group in itertools.groupby(threat_models, key=lambda threat: threat.norm)}
    suites = {norm: attack_suite(target, norm, attacks, batch_size, seed) for norm in groups}
    for norm, group in groups.items():
        rounds |= cascade(suites[norm], group, class_ids, rows, flips, stages, progress)
    diagnostics: tuple[Diagnostic, ...] = ()
    for norm, group in groups.items():
        told = _most_telling(group, rounds)
        diagnose = Diagnostics(target, norm, told.eps, surrogate, batch_size, seed)
        diagnostics += diagnose(rows, class_ids, flips, stages, progress)
    certificate: Certificate | None = None
    broken: list[BrokenCertificate] = []
    if target.certify is not None:
        certificate = target.certify(images)
        broken = broken_certificates(target, certificate, flips, stages, batch_size, seed, progress)
    shares = {} if certificate is None else _shares(certificate, labels, radii)
    is_certified = certificate is not None and certificate.certified_radius is not None
    return Evaluation(
        target=target,
        images=images,
        labels=labels,
        ids=np.arange(len(images)) if ids is None else np.asarray(ids),
        class_ids=class_ids,
        radius=None if certificate is None else certificate.radius,
        certified_radius=None if certificate is None else certificate.certified_radius,
        certified_accuracy=shares if is_certified else {},
        uncertified_accuracy={} if is_certified else shares,
        threats=threat_results(rounds, class_ids, flips),
        diagnostics=diagnostics,
        broken=tuple(broken),
        smallest_flips=flips.distance,
        subset_size=len(rows),
        seconds=time.perf_counter() - start,
        seed=seed,
    )


def _shares(certificate, labels, radii):
    """Radius to the share that is right and proved to stay so, in real arithmetic if nothing is certified."""
    radius = certificate.proved_radius
    shares = certified_accuracy_curve(labels, certificate.class_ids, radius, radii)
    return dict(zip(radii, shares.tolist(), strict=True))


def _most_telling(threats, rounds):
    """The threat model that leaves nearest to half of what it is given: there attacks can be told apart."""
    return min(threats, key=lambda threat: abs(rounds[threat].scores[-1].cumulative - 0.5))
