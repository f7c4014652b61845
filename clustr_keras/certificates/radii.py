"""Radii within which the class cannot change, in input units."""

import keras
from keras import ops

from clustr_keras.certificates.distances import as_geometry, nearest_cluster
from clustr_keras.certificates.floats import unit_roundoff, widest_float
from clustr_keras.certificates.margins import exact_margin, nearest_margin, union_margin
from clustr_keras.certificates.soft import largest_gaps, shared_variance, soft_scores
from clustr_keras.types import ArrayLike, Tensor


def nearest_radius(embeddings: Tensor | ArrayLike, centers: Tensor | ArrayLike, lipschitz: float = 1.0) -> Tensor:
    """Distance to the nearest bisecting hyperplane of the winning center.

    `r = min_b h_ab(z) / L`, with `a` the center nearest to `z` and `b` over the centers of all other classes. No
    perturbation of the input with an l_2 norm below `r` changes the class of the nearest center; for one center per
    class and an isometric embedding some perturbation of norm `r` does.

    Args:
        embeddings: Floats `[B, D]`.
        centers: Floats `[C, K, D]`, K centers for each of C classes.
        lipschitz: Proved upper bound of the embedding's l_2 Lipschitz constant.

    Returns:
        Floats `[B]`, in input units. Infinite for C = 1: there is no other class.

    Raises:
        ValueError: If the shapes are not `[B, D]` and `[C, K, D]`.

    Example:

    >>> nearest_radius([[0.0, 1.0]], [[[0.0, 0.0]], [[4.0, 0.0]]])
    [2.0]

    Reference:
        Alfarra et al., Rethinking Clustering for Robustness, BMVC 2021, Theorem 1.
    """
    embeddings, centers, dtype = _as_wide_geometry(embeddings, centers)
    class_ids, _ = nearest_cluster(embeddings, centers)
    return _rounded_down(nearest_margin(embeddings, centers, class_ids), lipschitz, dtype)


def union_radius(embeddings: Tensor | ArrayLike, centers: Tensor | ArrayLike, lipschitz: float = 1.0) -> Tensor:
    """Distance within which every rival center stays farther away than some center of the winning class.

    `r = min_{b not in c} max_{a in c} h_ab(z) / L`, with `c` the class of the center nearest to `z`. For each rival
    `b` one fixed `a` keeps `h_ab` positive, so no perturbation with an l_2 norm below `r` lets any rival win. Never
    smaller than `nearest_radius`, and equal to it for K = 1.

    Args:
        embeddings: Floats `[B, D]`.
        centers: Floats `[C, K, D]`, K centers for each of C classes.
        lipschitz: Proved upper bound of the embedding's l_2 Lipschitz constant.

    Returns:
        Floats `[B]`, in input units. Infinite for C = 1: there is no other class.

    Raises:
        ValueError: If the shapes are not `[B, D]` and `[C, K, D]`.

    Example:

    >>> union_radius([[0.0, 1.0]], [[[0.0, 0.0]], [[4.0, 0.0]]])
    [2.0]

    Reference:
        Alfarra et al., Rethinking Clustering for Robustness, BMVC 2021, Theorem 1, for one class against one center.
    """
    embeddings, centers, dtype = _as_wide_geometry(embeddings, centers)
    class_ids, _ = nearest_cluster(embeddings, centers)
    return _rounded_down(union_margin(embeddings, centers, class_ids), lipschitz, dtype)


def exact_radius(embeddings: Tensor | ArrayLike, centers: Tensor | ArrayLike, lipschitz: float = 1.0) -> Tensor:
    """Distance to the region of the other classes.

    `r = min_{b not in c} dist(z, {w : h_ab(w) <= 0 for all a in c}) / L`, with `c` the class of the center nearest to
    `z`: the set is where `b` is at least as near as every center of `c`. With the normals `n_ab` of the bisecting
    hyperplanes, every `l >= 0` bounds the distance from below by `(l . h) / ||sum_a l_a n_ab||`, the distance to the
    half-space that `l` combines from them; the largest such bound is the distance itself (duality). For K <= 4 all
    sets of active hyperplanes are tried, for larger K coordinate ascent makes 50 sweeps. The 20 rivals with the
    smallest union value are projected on; the next union value bounds the rest.

    Never smaller than `union_radius`; minus a bound on its own rounding elsewhere. With at most 20 rivals and an
    isometric embedding some perturbation of that norm does change the class. The gradient is that of the bound at the
    best `l`.

    Args:
        embeddings: Floats `[B, D]`.
        centers: Floats `[C, K, D]`, K centers for each of C classes.
        lipschitz: Proved upper bound of the embedding's l_2 Lipschitz constant.

    Returns:
        Floats `[B]`, in input units. Infinite for C = 1: there is no other class.

    Raises:
        ValueError: If the shapes are not `[B, D]` and `[C, K, D]`.

    Example:

    >>> exact_radius([[0.0, 0.0]], [[[-1.0, 1.0], [1.0, 1.0]], [[0.0, 3.0], [0.0, -9.0]]])
    [1.75]  # union_radius gives 1.57

    Reference:
        Boyd and Vandenberghe, Convex Optimization, section 8.1, for projections and their dual.
    """
    embeddings, centers, dtype = _as_wide_geometry(embeddings, centers)
    class_ids, _ = nearest_cluster(embeddings, centers)
    return _rounded_down(exact_margin(embeddings, centers, class_ids), lipschitz, dtype)


def soft_radius(
    embeddings: Tensor | ArrayLike,
    centers: Tensor | ArrayLike,
    lipschitz: float = 1.0,
    variance: Tensor | ArrayLike = 1.0,
) -> Tensor:
    """Distance within which the class that scores highest by all its clusters keeps doing so.

    With `score_c = logsumexp_k(-||z - mu_ck||^2 / (2 s^2))` and `c` the class of the largest score,
    `r = min_j (score_c - score_j) s^2 / (max_{k,l} ||mu_ck - mu_jl|| L)`: the gradient of a score is a mean of
    `(mu_k - z) / s^2`, so that of a difference of two is at most the largest distance of their centers over `s^2`.
    It is about the *soft* class, which may differ from that of the nearest center.

    Args:
        embeddings: Floats `[B, D]`.
        centers: Floats `[C, K, D]`, K centers for each of C classes.
        lipschitz: Proved upper bound of the embedding's l_2 Lipschitz constant.
        variance: Positive `s^2`, one for all clusters: a number, or an array of equal ones.

    Returns:
        Floats `[B]`, in input units and real arithmetic. Infinite for C = 1: there is no other class.

    Raises:
        ValueError: If the shapes are not `[B, D]` and `[C, K, D]`, or the variances differ: with unequal variances
            the difference of two scores is not Lipschitz, and no such bound exists.

    Example:

    >>> soft_radius([[0.0, 1.0]], [[[0.0, 0.0]], [[4.0, 0.0]]])
    [2.0]
    """
    variance = shared_variance(variance)
    embeddings, centers, dtype = _as_wide_geometry(embeddings, centers)
    num_classes = centers.shape[0]
    scores = soft_scores(embeddings, centers, variance)
    is_winner = ops.one_hot(ops.argmax(scores, axis=-1), num_classes, dtype="bool")
    lead = ops.max(scores, axis=-1, keepdims=True) - scores
    gaps = largest_gaps(centers)  # [C, C]
    # Where all centers of two classes coincide the scores are equal, and the lead is 0.
    gaps = ops.take(ops.where(gaps > 0.0, gaps, 1.0), ops.argmax(scores, axis=-1), axis=0)
    margins = ops.where(is_winner, float("inf"), lead * variance / gaps)
    return _rounded_down(ops.min(margins, axis=-1), lipschitz, dtype)


def _as_wide_geometry(embeddings, centers):
    """`as_geometry`, in float64 where there is one; and the type that the result goes back to."""
    embeddings, centers = as_geometry(embeddings, centers)
    dtype = keras.backend.standardize_dtype(embeddings.dtype)
    return ops.cast(embeddings, widest_float()), ops.cast(centers, widest_float()), dtype


def _rounded_down(margin, lipschitz, dtype):
    """The radius of a margin, never negative; rounded towards 0 where the type of the result is narrower."""
    radius = ops.maximum(margin, 0.0) / lipschitz
    narrower = unit_roundoff(dtype) > unit_roundoff(margin.dtype)
    return ops.cast(radius * (1.0 - 2.0**-23 if narrower else 1.0), dtype)
