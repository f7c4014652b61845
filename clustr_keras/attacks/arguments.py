"""Checks of what an attack is called with, and the distances that it reports."""

import numpy as np

from clustr_keras.data.checks import check_images
from clustr_keras.types import ArrayLike, Floats, Ints

NORMS = {"l_inf": np.inf, "l_2": 2}


def checked_arguments(images: ArrayLike, labels: ArrayLike, eps: ArrayLike) -> tuple[Floats, Ints, Floats]:
    """Brings the arguments of an attack into shape.

    Args:
        images: Floats `[B, H, W, C]` in [0, 1].
        labels: Ints `[B]` or `[B, 1]`.
        eps: Radius of the ball: one for all, or `[B]`.

    Returns:
        float32 images, int64 labels `[B]` and float64 radii `[B]`.

    Raises:
        ValueError: If images leave [0, 1], there is not one label for each, or an eps is negative or not finite.
    """
    images = np.asarray(images, "float32")
    labels = np.asarray(labels, "int64").reshape(-1)
    check_images(images)
    if len(labels) != len(images):
        raise ValueError(f"there must be one label for each image; got {len(labels)} labels, {len(images)} images.")
    eps = np.broadcast_to(np.asarray(eps, "float64"), labels.shape)
    is_radius = np.isfinite(eps) & (eps >= 0)
    if not is_radius.all():
        raise ValueError(f"eps must be finite and at least 0; got {eps[~is_radius][0]}.")
    return images, labels, eps


def check_norm(norm: str) -> None:
    """Refuses a norm that is not in `NORMS`.

    Raises:
        ValueError: If it is another one.
    """
    if norm not in NORMS:
        raise ValueError(f"norm must be {' or '.join(map(repr, NORMS))}; got {norm!r}.")


def check_loss(loss: ArrayLike) -> None:
    """Refuses the loss of a model whose logits are not finite.

    Raises:
        ValueError: If a value is not finite.
    """
    if not np.isfinite(loss).all():
        raise ValueError("the attacked model gives logits that are not finite; nothing follows from them.")


def distances(adversarial: ArrayLike, images: ArrayLike, order: float = 2) -> Floats:
    """Norms of `adversarial - images`, `[B]`, in float64 from the float32 images as they are."""
    difference = np.asarray(adversarial).astype("float64") - np.asarray(images).astype("float64")
    return np.linalg.norm(difference.reshape(len(difference), -1), ord=order, axis=-1)


def inner_radius(eps: Floats, dim: int) -> Floats:
    """A radius that is safe to move by: `x + eta` is rounded to float32, which may add to the norm of `eta`.

    Args:
        eps: float64 `[B]`.
        dim: Integer, number of pixels that add up in the norm: 1 for l_inf.

    Returns:
        float64 `[B]`.
    """
    return np.maximum(eps * (1.0 - 1e-6) - 2.0**-24 * np.sqrt(dim), 0.0)


def into_ball(adversarial: Floats, images: Floats, eps: Floats, order: float = 2) -> Floats:
    """Moves along the segment to each image until it is at most `eps` away, in float32.

    Args:
        adversarial, images: float32 `[B, H, W, C]` in [0, 1].
        eps: float64 `[B]`.
        order: Of the norm, 2 or infinity.

    Returns:
        float32 `[B, H, W, C]` in [0, 1]; what was inside stays as it is.
    """
    distance = distances(adversarial, images, order)
    inner = inner_radius(eps, images[0].size if order == 2 else 1)
    share = np.where(distance <= eps, 1.0, np.minimum(inner / np.maximum(distance, 1e-30), 1.0))
    shape = (-1, *[1] * (images.ndim - 1))
    moved = images + share.reshape(shape) * (adversarial.astype("float64") - images)
    moved = np.clip(moved, 0.0, 1.0).astype("float32")
    return np.where((distances(moved, images, order) <= eps).reshape(shape), moved, images)
