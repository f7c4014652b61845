"""Makes flips smaller."""

from collections.abc import Callable

import numpy as np

from clustr_keras.types import Floats, Ints


def shrink_flips(
    predict: Callable[[Floats], Ints], images: Floats, adversarial: Floats, class_ids: Ints, steps: int = 12
) -> Floats:
    """Moves each flip towards its image by bisection, as long as the answer stays flipped.

    Args:
        predict: Function from images `[B, H, W, C]` to class ids `[B]`.
        images: float32 `[B, H, W, C]`.
        adversarial: float32 `[B, H, W, C]`; rows that `predict` does not flip are returned as they are.
        class_ids: Ints `[B]`, the classes of `images`.
        steps: Integer, number of bisections.

    Returns:
        float32 `[B, H, W, C]`.

    Example:

    >>> shrink_flips(predict, x_test, attack(x_test, class_ids, eps=1.0).adversarial, class_ids)
    """
    best = np.array(adversarial, "float32")
    flipped = predict(best) != class_ids
    inside, outside = np.zeros(len(images)), np.ones(len(images))
    for _ in range(steps):
        middle = 0.5 * (inside + outside)
        share = middle.reshape(-1, *[1] * (images.ndim - 1))
        candidates = (images + share * (adversarial.astype("float64") - images)).astype("float32")
        is_flip = flipped & (predict(candidates) != class_ids)
        best[is_flip] = candidates[is_flip]
        inside, outside = np.where(is_flip, inside, middle), np.where(is_flip, middle, outside)
    return best
