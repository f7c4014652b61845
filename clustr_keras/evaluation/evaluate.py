"""Clean, certified and robust accuracy of a classifier, and whether its evaluation can be believed."""

import dataclasses
import itertools
import time

import numpy as np

from clustr_keras.attacks.arguments import distances
from clustr_keras.data.checks import check_images, check_labels
from clustr_keras.evaluation.audit import flips_inside
from clustr_keras.evaluation.cascade import ThreatResult, cascade
from clustr_keras.evaluation.diagnostics import Diagnostic, Diagnostics
from clustr_keras.evaluation.interval import wilson_interval
from clustr_keras.evaluation.report import certified_accuracy_curve
from clustr_keras.evaluation.stages import Stages
from clustr_keras.evaluation.suite import DEFAULT_ATTACKS, attack_suite
from clustr_keras.evaluation.target import as_target
from clustr_keras.evaluation.threat_model import DEFAULT_THREAT_MODELS

DEFAULT_RADII = (36 / 255, 0.3, 0.5, 0.75, 1.0, 1.25, 1.58, 2.0)


@dataclasses.dataclass(frozen=True)
class BrokenCertificate:
    """A flip inside a certified radius: the proof, or the code that follows it, is wrong.

    Args:
        index: Integer, of the example.
        threat_model: That of the attack.
        distance: Float, l_2 norm of the difference, in float64 from the float32 images.
        certified_radius: Float, what was claimed.
        class_before, class_after: Integers.
        adversarial: float32 `[H, W, C]`.
    """

    index: int
    threat_model: str
    distance: float
    certified_radius: float
    class_before: int
    class_after: int
    adversarial: np.ndarray


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found out about a classifier on N examples.

    Args:
        target: `Target`.
        images, labels: float32 `[N, H, W, C]` and int64 `[N]`.
        class_ids: int64 `[N]`, predicted.
        radius, certified_radius: Floats `[N]`, in real arithmetic and less the rounding slack, or `None`.
        certified_accuracy: Dict, radius -> share; by the certified radius, or else by that in real arithmetic.
        threats: A `ThreatResult` for each threat model.
        diagnostics: A `Diagnostic` for each sign of masked gradients.
        broken: A `BrokenCertificate` for each flip inside a certified radius.
        subset_size: Integer, number of examples that attacks and diagnostics ran on alone.
        seconds: Float.
        seed: Integer.
    """

    target: object
    images: np.ndarray
    labels: np.ndarray
    class_ids: np.ndarray
    radius: np.ndarray | None
    certified_radius: np.ndarray | None
    certified_accuracy: dict
    threats: tuple[ThreatResult, ...]
    diagnostics: tuple[Diagnostic, ...]
    broken: tuple[BrokenCertificate, ...]
    subset_size: int
    seconds: float
    seed: int

    @property
    def clean_accuracy(self):
        """Share of the examples that is right."""
        return float((self.class_ids == self.labels).mean())

    @property
    def failed(self):
        """Names of the diagnostics that failed."""
        return [diagnostic.name for diagnostic in self.diagnostics if diagnostic.passed is False]

    @property
    def passed(self):
        """Whether no diagnostic failed and no certificate was broken."""
        return not self.failed and not self.broken

    def as_dict(self):
        """All figures, ready for JSON."""
        count = len(self.labels)
        return {
            "model": self.target.name,
            "examples": count,
            "subset": self.subset_size,
            "seed": self.seed,
            "clean_accuracy": self.clean_accuracy,
            "clean_accuracy_interval": wilson_interval(self.clean_accuracy, count),
            "certified_accuracy": {f"{radius:.4g}": share for radius, share in self.certified_accuracy.items()},
            "certified_in": None
            if self.radius is None
            else "real arithmetic"
            if self.certified_radius is None
            else "float32",
            "robust_accuracy": {str(threat.threat_model): threat.robust_accuracy for threat in self.threats},
            "threat_models": [
                {
                    "norm": threat.threat_model.norm,
                    "eps": threat.threat_model.eps,
                    "robust_accuracy": threat.robust_accuracy,
                    "interval": wilson_interval(threat.robust_accuracy, count),
                    "attacks": [dataclasses.asdict(score) for score in threat.scores],
                }
                for threat in self.threats
            ],
            "diagnostics": [dataclasses.asdict(diagnostic) for diagnostic in self.diagnostics],
            "broken_certificates": [
                {name: value for name, value in dataclasses.asdict(found).items() if name != "adversarial"}
                for found in self.broken
            ],
            "passed": self.passed,
            "seconds": round(self.seconds, 1),
        }


def evaluate(
    model,
    images,
    labels,
    threat_models=DEFAULT_THREAT_MODELS,
    attacks=DEFAULT_ATTACKS,
    scores=None,
    radii=DEFAULT_RADII,
    subset=500,
    surrogate=None,
    folder=None,
    batch_size=256,
    seed=0,
    progress=None,
):
    """Evaluates a classifier by what can be proved about it and by what attacks can do to it.

    Within each threat model the attacks run one after the other, each on the examples that the others have left. The
    robust accuracy is the worst case over all of them, example by example. Beside it stands the number of each attack
    on its own, on a random subset. `Diagnostics` look for masked gradients there, within the threat model of the
    largest eps (in l_inf, if there is one). No attack may flip an example inside its certified radius.

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
        folder: Where to keep what each attack found; an interrupted evaluation goes on from there.
        batch_size, seed: Integers.
        progress: Function of a string, called before each attack.

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
    class_ids, logits = target.predict(images, batch_size)
    # Rounded, since the last bits of logits may differ from run to run.
    stages = Stages(folder, images, labels, np.round(logits, 3) + 0.0, str(seed))
    rows = np.sort(np.random.default_rng(seed).permutation(len(images))[:subset])

    threats = []
    for norm, group in itertools.groupby(threat_models, key=lambda threat: threat.norm):
        suite = attack_suite(target, norm, attacks, batch_size, seed)
        threats += cascade(suite, list(group), images, labels, class_ids, rows, stages, progress)
    hardest = threat_models[0]  # the largest one in l_inf, if there is any
    diagnostics = Diagnostics(target, hardest.norm, hardest.eps, surrogate, batch_size, seed)(
        images[rows], labels[rows], class_ids[rows], stages, progress
    )
    certificate = None if target.certify is None else target.certify(images)
    return Evaluation(
        target=target,
        images=images,
        labels=labels,
        class_ids=class_ids,
        radius=certificate and certificate.radius,
        certified_radius=certificate and certificate.certified_radius,
        certified_accuracy={} if certificate is None else _certified_accuracy(certificate, labels, radii),
        threats=tuple(threats),
        diagnostics=diagnostics,
        broken=tuple(_broken(target, certificate, images, threats)),
        subset_size=len(rows),
        seconds=time.perf_counter() - start,
        seed=seed,
    )


def _certified_accuracy(certificate, labels, radii):
    radius = certificate.radius if certificate.certified_radius is None else certificate.certified_radius
    shares = certified_accuracy_curve(labels, certificate.class_ids, radius, radii)
    return dict(zip(radii, shares.tolist(), strict=True))


def _broken(target, certificate, images, threats):
    """Flips inside a certified radius, by the deployed model's own answer; for each example the smallest."""
    if certificate is None or certificate.certified_radius is None:
        return []
    smallest = {}
    for threat in threats:
        distance = distances(threat.adversarial, images)
        is_flipped = threat.flipped_to != certificate.class_ids
        flips = flips_inside(target.certify, certificate, threat.adversarial, distance, is_flipped, smallest)
        for index, before, after in flips:
            smallest[index] = BrokenCertificate(
                index,
                str(threat.threat_model),
                float(distance[index]),
                float(certificate.certified_radius[index]),
                before,
                after,
                threat.adversarial[index],
            )
    return [smallest[index] for index in sorted(smallest)]
