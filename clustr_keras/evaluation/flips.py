"""All flips that an evaluation has found, whichever attack found them."""

import numpy as np

from clustr_keras.attacks.arguments import NORMS, distances
from clustr_keras.evaluation.threat_model import ThreatModel
from clustr_keras.types import Bools, Floats, Ints


class Flips:
    """For each example the smallest flip known, in l_inf and in l_2.

    A flip counts in every threat model that it fits, whatever it was made for: that of a larger eps, of the other norm,
    of a diagnostic, of a network that was attacked in the place of this one.

    Args:
        images: float32 `[N, H, W, C]`.
        labels: int64 `[N]`.

    Attributes:
        distance: Dict, norm -> float64 `[N]`, in float64 from the float32 images; infinite where there is no flip.
        adversarial: Dict, norm -> float32 `[N, H, W, C]`, the flips; the image itself where there is none.
        class_ids: Dict, norm -> int64 `[N]`, their classes; the label where there is none.

    Example:

    >>> flips = Flips(images, labels)
    >>> flips.add(rows, result.adversarial, result.class_ids)
    >>> flips.fits(ThreatModel("l_2", 0.5)).mean()
    """

    def __init__(self, images: Floats, labels: Ints) -> None:
        self.images, self.labels = images, labels
        self.distance = {norm: np.full(len(images), np.inf) for norm in NORMS}
        self.adversarial = {norm: images.copy() for norm in NORMS}
        self.class_ids = {norm: labels.copy() for norm in NORMS}

    def add(self, rows: Ints, adversarial: Floats, class_ids: Ints) -> None:
        """Takes over the flips among some images.

        Args:
            rows: Ints `[B]`, the examples.
            adversarial: float32 `[B, H, W, C]` in [0, 1].
            class_ids: Ints `[B]`, what the model says of them.
        """
        is_flip = class_ids != self.labels[rows]
        for norm, order in NORMS.items():
            distance = distances(adversarial, self.images[rows], order)
            is_better = is_flip & (distance < self.distance[norm][rows])
            better = rows[is_better]
            self.distance[norm][better] = distance[is_better]
            self.adversarial[norm][better] = adversarial[is_better]
            self.class_ids[norm][better] = class_ids[is_better]

    def fits(self, threat_model: ThreatModel) -> Bools:
        """Whether a flip of each example is known within a threat model, bool `[N]`."""
        return self.distance[threat_model.norm] <= threat_model.eps
