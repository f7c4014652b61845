"""Distances to where the class of the nearest center changes, in embedding units."""

from keras import ops

from clustr_keras.certificates.distances import squared_distances
from clustr_keras.certificates.floats import unit_roundoff
from clustr_keras.certificates.hyperplanes import (
    normal_products,
    signed_distance_error,
    signed_distances,
    size_about_mean,
)
from clustr_keras.certificates.projection import dual_weights, half_space_distance
from clustr_keras.types import Tensor

# The exact margin projects on this many rivals: on all for C <= 6 and K <= 4.
_PROJECTED_RIVALS = 20


def nearest_margin(embeddings: Tensor, centers: Tensor, class_ids: Tensor) -> Tensor:
    """`min_{b not in c} h_ab(z)` for the center `a` of class `c` nearest to `z`.

    Args:
        embeddings: Floats `[B, D]`.
        centers: Floats `[C, K, D]`.
        class_ids: Integers `[B]`, the class `c` of each.

    Returns:
        Floats `[B]`, in embedding units. A radius in input units is this over the backbone's Lipschitz bound.

    Example:

    >>> nearest_margin(ops.array([[0.0, 1.0]]), ops.array([[[0.0, 0.0]], [[4.0, 0.0]]]), ops.array([0]))
    [2.0]
    """
    distances = squared_distances(embeddings, centers)
    own = ops.take_along_axis(distances, ops.cast(class_ids, "int32")[:, None, None], axis=1)[:, 0]
    chosen = ops.one_hot(ops.argmin(own, axis=-1), centers.shape[1], dtype="bool")[:, :, None]
    h = signed_distances(embeddings, centers, class_ids)
    return ops.min(ops.where(chosen, h, float("inf")), axis=(1, 2))


def union_margin(embeddings: Tensor, centers: Tensor, class_ids: Tensor) -> Tensor:
    """`min_{b not in c} max_{a in c} h_ab(z)` for a given class `c` per example.

    Args:
        embeddings, centers, class_ids: As for `nearest_margin`.

    Returns:
        As `nearest_margin`; negative where another class is nearer.

    Example:

    >>> union_margin(ops.array([[0.0, 1.0]]), ops.array([[[0.0, 0.0]], [[4.0, 0.0]]]), ops.array([0]))
    [2.0]
    """
    return ops.min(ops.max(signed_distances(embeddings, centers, class_ids), axis=1), axis=-1)


def exact_margin(embeddings: Tensor, centers: Tensor, class_ids: Tensor) -> Tensor:
    """Distance of `z` to where some `b` not in `c` has `h_ab <= 0` for all `a` in `c`.

    A lower bound of it in floating point, never below the union margin.

    Args:
        embeddings, centers, class_ids: As for `nearest_margin`.

    Returns:
        As `nearest_margin`.

    Example:

    >>> exact_margin(ops.array([[0.0, 1.0]]), ops.array([[[0.0, 0.0]], [[4.0, 0.0]]]), ops.array([0]))
    [2.0]
    """
    num_classes, clusters, dim = centers.shape
    h = signed_distances(embeddings, centers, class_ids)  # [B, K, C*K]
    union = ops.max(h, axis=1)
    if num_classes == 1 or clusters == 1:
        return ops.min(union, axis=-1)
    rivals, of_rest = closest_rivals(union, (num_classes - 1) * clusters)
    gram = normal_products(centers, class_ids, rivals)  # [B, T, K, K]
    h = ops.transpose(ops.take_along_axis(h, rivals[:, None, :], axis=-1), (0, 2, 1))  # [B, T, K]
    error = signed_distance_error(size_about_mean(embeddings, centers), dim, unit_roundoff(embeddings.dtype))
    weights = dual_weights(ops.stop_gradient(gram), ops.stop_gradient(h))
    projected = half_space_distance(weights, gram, h - error[..., None], dim)
    margins = ops.maximum(projected, ops.max(h, axis=-1))
    return ops.minimum(ops.min(margins, axis=-1), of_rest)


def closest_rivals(union: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Flat ids `[B, T]` of the rivals with the smallest union values, and the next such value, `[B]`.

    Args:
        union: Floats `[B, C*K]`, infinite for the centers that are no rivals.
        count: Integer, the number of rivals of an example.
    """
    chosen = min(_PROJECTED_RIVALS, count)
    smallest, indices = ops.top_k(-ops.stop_gradient(union), chosen + 1)
    return indices[:, :-1], -smallest[:, -1]
