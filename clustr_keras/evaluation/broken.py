"""Certificates held against flips: those that attacks have found, and those of attacks within each radius."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from clustr_keras.attacks.arguments import distances
from clustr_keras.classifier import Certificate
from clustr_keras.evaluation.audit import attacks_on_radii, flips_inside
from clustr_keras.evaluation.flips import Flips
from clustr_keras.evaluation.stages import Stages, settings_of
from clustr_keras.evaluation.target import Target
from clustr_keras.types import Floats

# What float32 may add to a radius in real arithmetic, relative: more than that refutes it.
_REAL_ARITHMETIC = 1e-4


@dataclasses.dataclass(frozen=True)
class BrokenCertificate:
    """A flip inside a certified radius: the proof, or the code that follows it, is wrong.

    Args:
        index: Integer, place of the example among the images.
        attack: What found it.
        distance: Float, l_2 norm of the difference, in float64 from the float32 images.
        certified_radius: Float, what was claimed.
        class_before, class_after: Integers.
        adversarial: float32 `[H, W, C]`.
    """

    index: int
    attack: str
    distance: float
    certified_radius: float
    class_before: int
    class_after: int
    adversarial: Floats


def broken_certificates(
    target: Target,
    certificate: Certificate,
    flips: Flips,
    stages: Stages,
    batch_size: int = 256,
    seed: int = 0,
    progress: Callable[[str], object] | None = None,
) -> list[BrokenCertificate]:
    """Looks for flips inside of radii, by the deployed model's own answer; for each example the smallest.

    The attacks of an audit take the radius of each example as its eps, right or wrong as its class may be: what an
    evaluation finds within its threat models seldom lies just inside. Where there is no certified radius that in real
    arithmetic is held against them, less 0.01 % for the rounding that it leaves out.

    Args:
        target: `Target` with certificates.
        certificate: `Certificate` of the images.
        flips: `Flips` that the evaluation has found.
        stages: `Stages`.
        batch_size, seed: Integers, of the attacks.
        progress: Function of a string, called before each attack.

    Returns:
        A list of `BrokenCertificate`.

    Raises:
        ValueError: If the target makes no certificates.
    """
    certify = target.certify
    if certify is None:
        raise ValueError(f"certificates are held against flips; {target.name} makes none.")
    claimed = certificate.certified_radius
    if claimed is None:
        claimed = certificate.radius * np.float32(1.0 - _REAL_ARITHMETIC)
    radius, class_ids, images = claimed.astype("float64"), certificate.class_ids, flips.images
    smallest: dict[int, BrokenCertificate] = {}

    def look(attack, adversarial, is_flipped):
        distance = distances(adversarial, images)
        found = flips_inside(certify, class_ids, radius, adversarial, distance, is_flipped, smallest)
        for index, before, after in found:
            smallest[index] = BrokenCertificate(
                index, attack, float(distance[index]), float(radius[index]), before, after, adversarial[index]
            )

    # Of the label, which is the certified class wherever an attack was made.
    is_right = class_ids == flips.labels
    look("the evaluation's", flips.adversarial["l_2"], np.isfinite(flips.distance["l_2"]) & is_right)
    for attack in attacks_on_radii(target.compiled_logits, target.certifier, batch_size, seed=seed):
        if progress is not None:
            progress(f"certificates: {attack.name}")
        settings = ["certificates", settings_of(attack), radius.tolist(), class_ids.tolist()]
        result = stages(settings, functools.partial(attack, images, class_ids, radius))
        look(attack.name, result.adversarial, result.is_flipped)
    return [smallest[index] for index in sorted(smallest)]
