"""What is proved of a batch of images."""

import dataclasses

import numpy as np

from clustr_keras.types import ArrayLike, Floats, Ints


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What `ClustrClassifier.certify` proves of a batch of images. Radii are l_2, for pixels in [0, 1].

    Args:
        class_ids: int64 `[B]`, the predicted classes.
        certified_radius: float32 `[B]`: no change of the image with a norm below it changes the predicted class of
            the deployed float32 model. `None` where the rounding of the backbone's evaluation has no analysis.
        radius: float32 `[B]`, the same in real arithmetic, without the rounding slack; as other libraries report it.
        nearest_cluster: int64 `[B]`, `class * K + cluster` of the nearest center.
        runner_up_class_ids: int64 `[B]`, the classes with the second largest logits.
        logits: float32 `[B, C]`, distance logits.
        lipschitz_bound: Float, the proved bound of the backbone.
    """

    class_ids: Ints
    certified_radius: Floats | None
    radius: Floats
    nearest_cluster: Ints
    runner_up_class_ids: Ints
    logits: Floats
    lipschitz_bound: float

    def __len__(self) -> int:
        return len(self.class_ids)

    @property
    def proved_radius(self) -> Floats:
        """`certified_radius`, or `radius`, in real arithmetic, where nothing is certified."""
        return self.radius if self.certified_radius is None else self.certified_radius

    def accuracy_at(self, radius: float, labels: ArrayLike) -> float:
        """Certified accuracy: share of examples that are right and certified at least up to `radius`.

        At 0 it is the clean accuracy.

        Args:
            radius: Float, l_2, in units of pixels in [0, 1].
            labels: Class ids `[B]`.

        Returns:
            Float in [0, 1].

        Raises:
            ValueError: If `radius` is negative, there is not one label for each example, or nothing is certified
                because the backbone has no rounding analysis.
        """
        labels = np.reshape(labels, -1)
        if len(labels) != len(self):
            raise ValueError(f"expected {len(self)} labels, one for each example; got {len(labels)}.")
        if not radius >= 0:
            raise ValueError(f"radius must be at least 0; got {radius}.")
        is_right = self.class_ids == labels
        if radius == 0:
            return float(np.mean(is_right))
        if self.certified_radius is None:
            raise ValueError(
                "there is no certified radius: the backbone has no rounding analysis, or the arithmetic in use is not "
                "IEEE float32. `radius` holds the radii in real arithmetic."
            )
        return float(np.mean(is_right & (self.certified_radius >= radius)))
