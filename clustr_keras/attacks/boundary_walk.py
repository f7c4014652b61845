"""Makes flips smaller by sliding them along the decision boundary."""

import numpy as np
import tensorflow as tf

from clustr_keras.attacks.arguments import distances
from clustr_keras.attacks.attack import Logits, Progress
from clustr_keras.attacks.batches import in_full_batches
from clustr_keras.attacks.line_search import shrink_flips
from clustr_keras.attacks.losses import margin
from clustr_keras.attacks.steps import compiled
from clustr_keras.types import Floats, Ints


class ClearFlips:
    """Tells flips from what float32 rounding alone may make: the margin must exceed `2^-20 (1 + max |logit|)`.

    Args:
        logits: Function from images `[B, H, W, C]` to logits `[B, C]`, in units of the input.
        batch_size: Integer, most images in a batch; see `full_batches`.
    """

    def __init__(self, logits: Logits, batch_size: int = 256) -> None:
        self.logits = logits
        self.batch_size = batch_size
        self._excess = compiled(self._compute_excess)
        self._slope = compiled(self._compute_slope)

    def excess(self, images: Floats, labels: Ints) -> Floats:
        """By how much the margin away from the labels exceeds what counts, float64 `[B]`; above 0 for a flip."""
        return in_full_batches(self._excess, images, labels, self.batch_size).astype("float64")

    def slope(self, images: Floats, labels: Ints) -> Floats:
        """Gradient of the excess with respect to the images, float32, in their shape."""
        return in_full_batches(self._slope, images, labels, self.batch_size)

    def shrink(self, images: Floats, adversarial: Floats, labels: Ints, steps: int = 12) -> Floats:
        """Moves clear flips towards their images, as `shrink_flips` does, as long as they stay clear flips."""

        def predict(batch):
            return np.where(self.excess(batch, labels) > 0, -1, labels)

        return shrink_flips(predict, images, adversarial, labels, steps)

    def _compute_excess(self, images, labels):
        logits = self.logits(images)
        return margin(labels, logits) - 2.0**-20 * (1.0 + tf.reduce_max(tf.abs(logits), axis=-1))

    def _compute_slope(self, images, labels):
        with tf.GradientTape() as tape:
            tape.watch(images)
            excess = self._compute_excess(images, labels)
        return tape.gradient(excess, images)


def slide_flips(
    flips: ClearFlips,
    images: Floats,
    adversarial: Floats,
    labels: Ints,
    steps: int = 15,
    progress: Progress | None = None,
) -> Floats:
    """Slides each flip along the decision boundary to where it is nearest to its image.

    At a flip on the boundary the image is projected on the tangent plane there; the flip moves towards that foot, and
    back to the boundary by bisection. A move that ends farther away, or at no flip, is undone and tried at half the
    length.

    Args:
        flips: `ClearFlips` of the attacked model.
        images: float32 `[B, H, W, C]`.
        adversarial: float32 `[B, H, W, C]`, clear flips; rows that are none are returned as they are.
        labels: int64 `[B]`, the classes of `images`.
        steps: Integer, number of moves.
        progress: Function of the number of moves that are over.

    Returns:
        float32 `[B, H, W, C]`; no distance is larger than it was.

    Example:

    >>> slide_flips(ClearFlips(model), x_test, flipped_images, class_ids)

    Reference:
        Croce and Hein, Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack, ICML 2020.
    """
    is_flip = flips.excess(adversarial, labels) > 0
    best = flips.shrink(images, np.array(adversarial, "float32"), labels)
    share = np.ones(len(images))
    origin = images.astype("float64")
    axes = tuple(range(1, images.ndim))
    column = (-1, *[1] * (images.ndim - 1))
    for step in range(steps):
        slope = flips.slope(best, labels).astype("float64")
        square = np.sum(slope**2, axis=axes)
        along = np.sum((best - origin) * slope, axis=axes) / np.maximum(square, 1e-30)
        foot = origin + along.reshape(column) * slope
        target = best + share.reshape(column) * (foot - best)
        # A little beyond the plane: a boundary that bends towards the flip is crossed all the same.
        target = origin + 1.02 * (target - origin)
        moved = flips.shrink(images, np.clip(target, 0.0, 1.0).astype("float32"), labels)
        better = is_flip & (flips.excess(moved, labels) > 0) & (distances(moved, images) < distances(best, images))
        best[better] = moved[better]
        share = np.where(better, np.minimum(2.0 * share, 1.0), 0.5 * share)
        if progress is not None:
            progress(step + 1)
    return best
