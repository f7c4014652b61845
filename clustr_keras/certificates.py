"""Radii within which the nearest-center class cannot change, as pure functions of arrays.

For two centers `a`, `b` the signed distance of `z` to their bisecting hyperplane is

    h_ab(z) = (||z - mu_b||^2 - ||z - mu_a||^2) / (2 ||mu_a - mu_b||) = n_ab . (z - m_ab)

with the unit normal `n_ab` from `mu_b` to `mu_a` and the midpoint `m_ab`. It is 1-Lipschitz in `z`; for coincident
centers `h := 0`. The right-hand form is the one computed, since it does not cancel.
"""

import itertools
import math

import keras
import numpy as np
from keras import ops

# Below this distance two centers count as coincident: the square of a smaller one leaves float32's range.
COINCIDENT = 1e-15

# The exact margin projects on this many rivals: on all for C <= 6 and K <= 4. It tries all active sets up to this K,
# and sweeps so often beyond it.
_PROJECTED_RIVALS = 20
ENUMERATED_CLUSTERS = 4
_SWEEPS = 50

# Up to so many classes the hyperplanes of all of them are made for a whole batch.
_TABLED_CLASSES = 32

# Hyperplanes of at most this many floats are held at a time.
_CHUNK_FLOATS = 2**22


def nearest_radius(embeddings, centers, lipschitz=1.0):
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


def union_radius(embeddings, centers, lipschitz=1.0):
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


def exact_radius(embeddings, centers, lipschitz=1.0):
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


def soft_radius(embeddings, centers, lipschitz=1.0, variance=1.0):
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
    gaps = _largest_gaps(centers)  # [C, C]
    # Where all centers of two classes coincide the scores are equal, and the lead is 0.
    gaps = ops.take(ops.where(gaps > 0.0, gaps, 1.0), ops.argmax(scores, axis=-1), axis=0)
    margins = ops.where(is_winner, float("inf"), lead * variance / gaps)
    return _rounded_down(ops.min(margins, axis=-1), lipschitz, dtype)


def soft_scores(embeddings, centers, variance):
    """`logsumexp_k(-||z - mu_ck||^2 / (2 s^2))`, floats `[B, C]`."""
    return ops.logsumexp(-squared_distances(embeddings, centers) / (2.0 * variance), axis=-1)


def nearest_margin(embeddings, centers, class_ids):
    """`min_{b not in c} h_ab(z)` for the center `a` of class `c` nearest to `z`, `[B]`, in embedding units."""
    distances = squared_distances(embeddings, centers)
    own = ops.take_along_axis(distances, ops.cast(class_ids, "int32")[:, None, None], axis=1)[:, 0]
    chosen = ops.one_hot(ops.argmin(own, axis=-1), centers.shape[1], dtype="bool")[:, :, None]
    h = signed_distances(embeddings, centers, class_ids)
    return ops.min(ops.where(chosen, h, float("inf")), axis=(1, 2))


def union_margin(embeddings, centers, class_ids):
    """`min_{b not in c} max_{a in c} h_ab(z)` for a given class `c` per example, `[B]`, in embedding units.

    Negative where another class is nearer.
    """
    return ops.min(ops.max(signed_distances(embeddings, centers, class_ids), axis=1), axis=-1)


def exact_margin(embeddings, centers, class_ids):
    """Distance of `z` to where some `b` not in `c` has `h_ab <= 0` for all `a` in `c`, `[B]`, in embedding units.

    A lower bound of it in floating point, never below the union margin.
    """
    num_classes, clusters, dim = centers.shape
    h = signed_distances(embeddings, centers, class_ids)  # [B, K, C*K]
    union = ops.max(h, axis=1)
    if num_classes == 1 or clusters == 1:
        return ops.min(union, axis=-1)
    rivals, of_rest = closest_rivals(union, (num_classes - 1) * clusters)
    gram = normal_products(centers, class_ids, rivals)  # [B, T, K, K]
    h = ops.transpose(ops.take_along_axis(h, rivals[:, None, :], axis=-1), (0, 2, 1))  # [B, T, K]
    error = signed_distance_error(_size(embeddings, centers), dim, unit_roundoff(embeddings.dtype))
    weights = dual_weights(ops.stop_gradient(gram), ops.stop_gradient(h))
    projected = half_space_distance(weights, gram, h - error[..., None], dim)
    margins = ops.maximum(projected, ops.max(h, axis=-1))
    return ops.minimum(ops.min(margins, axis=-1), of_rest)


def closest_rivals(union, count):
    """Flat ids `[B, T]` of the rivals with the smallest union values, and the next such value, `[B]`.

    Args:
        union: Floats `[B, C*K]`, infinite for the centers that are no rivals.
        count: Integer, the number of rivals of an example.
    """
    chosen = min(_PROJECTED_RIVALS, count)
    smallest, indices = ops.top_k(-ops.stop_gradient(union), chosen + 1)
    return indices[:, :-1], -smallest[:, -1]


def signed_distance_error(size, dim, unit_roundoff):
    """Bound on the error of a computed `h_ab`, with `size` at least `||z - mean|| + max ||mu - mean||`.

    The normal is off by at most `gamma_(D+4)` in norm (its difference of centers is exact up to one rounding, whatever
    they have in common), the centered embedding and the midpoint by 2 roundings relative to `size`, the inner products
    by `gamma_D` of the norms of their factors: together less than `gamma_(3D+32) size`.
    """
    operations = (3 * dim + 32) * unit_roundoff
    return operations / (1.0 - operations) * size


def distance_logits(embeddings, centers):
    """The union margin of every class: `logit_c = min_{b not in c} max_{a in c} h_ab(z)`.

    The argmax is the class of the nearest center; its logit is the union radius in embedding space, and all others
    are at most 0. The size of a logit never exceeds the distance of `z` to the boundary of that class's region.

    The deciding pairs are found without gradient, a chunk of classes at a time, and `h` of those pairs alone is
    computed differentiably: no `[B, C*K, C*K]` tensor is made, unless it is small.

    Args:
        embeddings: Floats `[B, D]`.
        centers: Floats `[C, K, D]`.

    Returns:
        Floats `[B, C]`, in embedding units. Infinite for C = 1.

    Example:

    >>> distance_logits([[0.0, 1.0]], [[[0.0, 0.0]], [[4.0, 0.0]]])
    [[2.0, -2.0]]
    """
    embeddings, centers = as_geometry(embeddings, centers)
    num_classes, clusters, dim = centers.shape
    chunk = max(1, _CHUNK_FLOATS // (num_classes * clusters**2 * dim))
    if chunk >= num_classes:
        h = _signed_distances_by_class(embeddings, centers, ops.arange(num_classes))
        return ops.min(ops.max(h, axis=2), axis=-1)
    own, rival = _deciding_pairs(ops.stop_gradient(embeddings), ops.stop_gradient(centers), chunk)
    flat = ops.reshape(centers, (-1, dim))
    normals, midpoints = _hyperplanes(ops.take(flat, own, axis=0), ops.take(flat, rival, axis=0), _mean(centers))
    embeddings = embeddings - _mean(centers)
    return ops.sum(normals * (embeddings[:, None, :] - midpoints), axis=-1)


def squared_distances(embeddings, centers):
    """Squared distances `||z - mu||^2` to every center.

    Args:
        embeddings: Floats `[B, D]`.
        centers: Floats `[C, K, D]`.

    Returns:
        Floats `[B, C, K]`, never negative.

    Example:

    >>> squared_distances([[0.0, 1.0]], [[[0.0, 0.0]], [[4.0, 0.0]]])
    [[[1.0], [17.0]]]
    """
    embeddings, centers = as_geometry(embeddings, centers)

    def of_examples(z):
        return ops.sum(ops.square(z[..., None, None, :] - centers), axis=-1)

    return of_examples(embeddings) if _is_small(centers.shape) else ops.map(of_examples, embeddings)


def nearest_cluster(embeddings, centers):
    """Class and cluster (`0..K-1`) of the center nearest to each embedding, two int arrays `[B]`."""
    clusters = centers.shape[1]
    distances = squared_distances(embeddings, centers)
    nearest = ops.argmin(ops.reshape(distances, (-1, centers.shape[0] * clusters)), axis=-1)
    return nearest // clusters, nearest % clusters


def signed_distances(embeddings, centers, class_ids):
    """`h_ab(z)` for the centers `a` of one class per example against the centers `b` of all others.

    Args:
        embeddings: Floats `[B, D]`.
        centers: Floats `[C, K, D]`.
        class_ids: Ints `[B]`, the class that owns `a`.

    Returns:
        Floats `[B, K, C*K]`; infinite where `b` belongs to the class itself.
    """
    num_classes, clusters, dim = centers.shape
    if num_classes <= _TABLED_CLASSES:
        # Against all hyperplanes at once, in one matrix product: they do not depend on the example.
        h = _signed_distances_by_class(embeddings, centers, ops.arange(num_classes))
        return ops.take_along_axis(h, ops.cast(class_ids, "int32")[:, None, None, None], axis=1)[:, 0]
    mean = _mean(centers)
    rivals = ops.reshape(centers, (-1, dim))
    rival_classes = ops.arange(num_classes * clusters) // clusters

    def of_examples(example):
        z, class_id = example
        own = ops.take(centers, class_id, axis=0)[..., None, :]  # [..., K, 1, D]
        normals, midpoints = _hyperplanes(own, rivals, mean)
        h = ops.sum(normals * (z[..., None, None, :] - midpoints), axis=-1)
        same = rival_classes == ops.cast(class_id, rival_classes.dtype)[..., None]
        return ops.where(same[..., None, :], float("inf"), h)

    examples = (embeddings - mean, class_ids)
    return of_examples(examples) if _is_small((clusters, *centers.shape)) else ops.map(of_examples, examples)


def as_geometry(embeddings, centers):
    """Tensors of one dtype (the embeddings'), after a check of the shapes."""
    embeddings = ops.convert_to_tensor(embeddings)
    centers = ops.cast(ops.convert_to_tensor(centers), embeddings.dtype)
    if len(embeddings.shape) != 2 or len(centers.shape) != 3 or embeddings.shape[-1] != centers.shape[-1]:
        raise ValueError(
            "embeddings must be [B, D] and centers [C, K, D] with the same D; "
            f"got {tuple(embeddings.shape)} and {tuple(centers.shape)}."
        )
    return embeddings, centers


def widest_float():
    """The widest type of floats that the backend computes in, here and now: JAX has float64 on request alone."""
    if keras.backend.backend() != "jax":
        return "float64"
    import jax

    return "float64" if jax.config.jax_enable_x64 else "float32"


def unit_roundoff(dtype):
    """Half the distance from 1 to the next float of a type."""
    return 2.0**-53 if keras.backend.standardize_dtype(dtype) == "float64" else 2.0**-24


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


def shared_variance(variance):
    """The one variance of all clusters, as a float.

    Raises:
        ValueError: If variances differ, or one is not positive and finite.
    """
    values = np.asarray(ops.convert_to_numpy(variance) if ops.is_tensor(variance) else variance, "float64")
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError("variance must be positive and finite.")
    if values.min() != values.max():
        raise ValueError(
            f"soft_radius needs one variance for all clusters; got values from {values.min():g} to {values.max():g}. "
            "With unequal variances there is no such bound: share one, or use the class of the nearest center."
        )
    return float(values.flat[0])


def _largest_gaps(centers):
    """`max_{k,l} ||mu_ck - mu_jl||`, `[C, C]`, a class at a time."""

    def of_class(own):
        return ops.max(ops.norm(own[:, None, None, :] - centers, axis=-1), axis=(0, 2))

    return ops.map(of_class, centers)


def _size(embeddings, centers):
    mean = _mean(centers)
    return ops.norm(embeddings - mean, axis=-1, keepdims=True) + ops.max(ops.norm(centers - mean, axis=-1))


def half_space_distance(weights, gram, h, dim):
    """Distance of `z` to the polyhedron `{w : h_a(w) <= 0 for all a}`, by the best of some dual weights.

    `max_l (l . h) / ||sum_a l_a n_a||`, minus its own rounding: a bound from below for whatever weights `l >= 0`, and
    the distance itself at the best of all.

    Args:
        weights: Floats `[B, T, S, K]`, not negative: S candidates for each of T polyhedra with K faces.
        gram: Floats `[B, T, K, K]`, `n_a . n_a'`.
        h: Floats `[B, T, K]`, signed distances to the faces.
        dim: Integer D.

    Returns:
        Floats `[B, T]`.
    """
    gamma = 2.0 * (dim + 2 * h.shape[-1] + 16) * unit_roundoff(h.dtype)
    # Relative to the sum of the weights, since unit normals cancel: and never 0, where all weights are.
    rounding = gamma * ops.square(ops.sum(weights, axis=-1)) + 1e-30
    square = ops.maximum(ops.sum(ops.matmul(weights, gram) * weights, axis=-1), 0.0) + rounding
    numerator = ops.sum(weights * (h - gamma * ops.abs(h))[..., None, :], axis=-1)
    return ops.max(numerator / ops.sqrt(square), axis=-1) * (1.0 - gamma)


def dual_weights(gram, h):
    """Weights `l >= 0`, `[B, T, S, K]`, of which one makes `half_space_distance` all or nearly all of the distance."""
    if h.shape[-1] <= ENUMERATED_CLUSTERS:
        return _active_set_weights(gram, h)
    return _ascended_weights(gram, h)[..., None, :]


def active_sets(clusters):
    """The sets of at least two of K faces."""
    return [active for size in range(2, clusters + 1) for active in itertools.combinations(range(clusters), size)]


def _active_set_weights(gram, h):
    """Solutions of `G_S l_S = h_S` for all sets S of at least two clusters, negative ones cut off."""
    clusters = h.shape[-1]
    columns = [h[..., k] for k in range(clusters)]
    candidates = []
    for active in active_sets(clusters):
        solution = _solve([[gram[..., i, j] for j in active] for i in active], [columns[i] for i in active])
        spread = [solution[active.index(k)] if k in active else ops.zeros_like(h[..., 0]) for k in range(clusters)]
        candidates.append(ops.stack(spread, axis=-1))
    return ops.maximum(ops.stack(candidates, axis=2), 0.0)


def _solve(matrix, right):
    """Elimination for a small positive definite system of tensors; near-singular ones give something finite."""
    size = len(right)
    matrix, right = [list(row) for row in matrix], list(right)
    for i in range(size):
        matrix[i][i] = ops.maximum(matrix[i][i], 1e-9 if unit_roundoff(right[0].dtype) < 1e-9 else 1e-5)
        for j in range(i + 1, size):
            factor = matrix[j][i] / matrix[i][i]
            right[j] = right[j] - factor * right[i]
            for k in range(i + 1, size):
                matrix[j][k] = matrix[j][k] - factor * matrix[i][k]
    for i in reversed(range(size)):
        for k in range(i + 1, size):
            right[i] = right[i] - matrix[i][k] * right[k]
        right[i] = right[i] / matrix[i][i]
    return right


def _ascended_weights(gram, h):
    """Coordinate ascent on the dual `l . h - l^T G l / 2`, `l >= 0`."""
    clusters = h.shape[-1]

    def sweep(_, weights):
        for k in range(clusters):
            others = ops.sum(gram[..., k, :] * weights, axis=-1) - gram[..., k, k] * weights[..., k]
            of_k = ops.maximum(h[..., k] - others, 0.0)[..., None]
            weights = ops.where(ops.arange(clusters) == k, of_k, weights)
        return weights

    return ops.fori_loop(0, _SWEEPS, sweep, ops.zeros_like(h))


def normal_products(centers, class_ids, rivals):
    """`n_ab . n_a'b` for the centers `a`, `a'` of one class per example and T rivals `b` each, `[B, T, K, K]`."""
    num_classes, clusters, dim = centers.shape
    flat = ops.reshape(centers, (-1, dim))
    if num_classes <= _TABLED_CLASSES:
        normals, _ = _hyperplanes(centers[:, None], flat[:, None], _mean(centers))  # [C, C*K, K, D]
        table = ops.reshape(ops.matmul(normals, ops.swapaxes(normals, -1, -2)), (-1, clusters, clusters))
        pairs = ops.cast(class_ids, "int32")[:, None] * (num_classes * clusters) + ops.cast(rivals, "int32")
        return ops.take(table, pairs, axis=0)
    own = ops.take(centers, class_ids, axis=0)[:, None]  # [B, 1, K, D]
    rival = ops.take(flat, rivals, axis=0)[:, :, None]  # [B, T, 1, D]
    normals, _ = _hyperplanes(own, rival, _mean(centers))
    return ops.matmul(normals, ops.swapaxes(normals, -1, -2))


def _is_small(shape):
    """Whether a tensor of this shape may be made for each example of a batch at a time."""
    return math.prod(shape) <= _CHUNK_FLOATS // 64


def _mean(centers):
    return ops.mean(centers, axis=(0, 1))


def _hyperplanes(own, rival, mean):
    """Unit normals from `rival` to `own` and midpoints relative to `mean`; normals of coincident centers are 0."""
    difference = own - rival
    square = ops.sum(difference**2, axis=-1, keepdims=True)
    distinct = square > COINCIDENT**2
    normals = ops.where(distinct, difference, 0.0) / ops.sqrt(ops.where(distinct, square, 1.0))
    return normals, 0.5 * ((own - mean) + (rival - mean))


def _signed_distances_by_class(embeddings, centers, class_ids):
    """`h_ab(z)`, `[B, n, K, C*K]`, of `n` classes for all examples; infinite where `b` is of the class itself."""
    num_classes, clusters, dim = centers.shape
    mean = _mean(centers)
    own = ops.take(centers, class_ids, axis=0)[:, :, None, :]
    rivals = ops.reshape(centers, (-1, dim))
    normals, midpoints = _hyperplanes(own, rivals, mean)  # [n, K, C*K, D]
    offsets = ops.sum(normals * midpoints, axis=-1)
    products = ops.matmul(embeddings - mean, ops.transpose(ops.reshape(normals, (-1, dim))))
    h = ops.reshape(products, (-1, *offsets.shape)) - offsets
    rival_classes = ops.arange(num_classes * clusters) // clusters
    same = ops.cast(class_ids, rival_classes.dtype)[:, None] == rival_classes
    return ops.where(same[:, None, :], float("inf"), h)


def _deciding_pairs(embeddings, centers, chunk):
    """Flat indices `[B, C]` of the pair of centers (own, rival) that decides each class's margin."""
    num_classes, clusters, _ = centers.shape
    chunks = -(-num_classes // chunk)
    # The last chunk repeats the last class; the surplus is cut off below.
    class_ids = ops.minimum(ops.reshape(ops.arange(chunks * chunk), (chunks, chunk)), num_classes - 1)

    def of_chunk(ids):
        h = _signed_distances_by_class(embeddings, centers, ids)
        rival = ops.cast(ops.argmin(ops.max(h, axis=2), axis=-1), "int32")
        of_rival = ops.take_along_axis(h, rival[:, :, None, None], axis=-1)[..., 0]
        own = ops.cast(ids, "int32") * clusters + ops.cast(ops.argmax(of_rival, axis=-1), "int32")
        return ops.stack([own, rival])

    pairs = ops.map(of_chunk, class_ids)  # [chunks, 2, B, chunk]
    pairs = ops.reshape(ops.transpose(pairs, (1, 2, 0, 3)), (2, -1, chunks * chunk))[:, :, :num_classes]
    return pairs[0], pairs[1]
