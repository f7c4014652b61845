"""Attacks inside the certified radius, in search of a counterexample."""

import dataclasses

import numpy as np

from clustr_keras.attacks import ProjectedGradientDescent
from clustr_keras.data.checks import check_images


@dataclasses.dataclass(frozen=True)
class AuditResult:
    """Outcome of an audit.

    Args:
        examples: Integer, number of examples audited.
        attacks: Names of the attacks that were run on each of them.
        violations: Ints, the indices of examples with a flip inside their certified radius. There must be none.
        counterexamples: float32 images `[violations, H, W, C]`, those flips.
    """

    examples: int
    attacks: tuple[str, ...]
    violations: np.ndarray
    counterexamples: np.ndarray

    def as_dict(self):
        """The counts, ready for JSON."""
        return {"examples": self.examples, "attacks": list(self.attacks), "violations": len(self.violations)}


def audit(model, images, attacks=None, batch_size=256, progress=None):
    """Attacks every example just inside its certified radius.

    A violation is an image whose deployed class differs from that of the original while the l_2 norm of the difference,
    recomputed in float64 from the float32 images, is below the certified radius. One is enough to refute the
    certificate; none proves nothing, but is what a right certificate shows however strong the attacks are. Examples
    with a radius of 0 claim nothing and hold trivially.

    Args:
        model: `ClustrClassifier`.
        images: Floats `[B, H, W, C]` in [0, 1].
        attacks: Attacks in l_2 on `model.certifier().deployed_logits`; PGD with 40 steps from 5 starts by default.
        batch_size: Integer, of the default attack.
        progress: Function of the attempts that are over, out of `B * restarts` of each attack.

    Returns:
        An `AuditResult`.

    Raises:
        ValueError: If the model has no certified radius, an attack is not one in l_2, or an image is not finite or
            leaves [0, 1].

    Example:

    >>> len(audit(model, x_test).violations)
    0
    """
    images = np.asarray(images, "float32")
    check_images(images, model.backbone.input_shape[1:])
    certificate = model.certify(images)
    if certificate.certified_radius is None:
        raise ValueError("the model has no certified radius to audit: its backbone has no rounding analysis.")
    if attacks is None:
        logits = model.certifier().deployed_logits
        attacks = [ProjectedGradientDescent(logits, "l_2", steps=40, restarts=5, batch_size=batch_size)]
    if not attacks:
        raise ValueError("an audit without attacks shows nothing; pass at least one attack.")
    if any(attack.norm != "l_2" for attack in attacks):
        raise ValueError("certified radii are l_2, so the attacks of an audit must be too.")
    radius = certificate.certified_radius.astype("float64")
    counterexamples = {}
    for attack in attacks:
        result = attack(images, certificate.class_ids, radius, progress=progress)
        for index in np.flatnonzero(result.is_flipped & (result.distance < radius)):
            # The flip must stand in the model that made the certificate, at its own batch size.
            if model.certify(result.adversarial[index : index + 1]).class_ids[0] != certificate.class_ids[index]:
                counterexamples.setdefault(int(index), result.adversarial[index])
    violations = sorted(counterexamples)
    return AuditResult(
        examples=len(images),
        attacks=tuple(attack.name for attack in attacks),
        violations=np.array(violations, dtype="int64"),
        counterexamples=np.reshape([counterexamples[index] for index in violations], (-1, *images.shape[1:])).astype(
            "float32"
        ),
    )
