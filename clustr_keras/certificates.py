"""Radii within which the nearest-center class cannot change, as pure functions of arrays.

For two centers `a`, `b` the signed distance of `z` to their bisecting hyperplane is

    h_ab(z) = (||z - mu_b||^2 - ||z - mu_a||^2) / (2 ||mu_a - mu_b||) = n_ab . (z - m_ab)

with the unit normal `n_ab` from `mu_b` to `mu_a` and the midpoint `m_ab`. It is 1-Lipschitz in `z`; for coincident
centers `h := 0`. The right-hand form is the one computed, since it does not cancel.
"""

import math

from keras import ops

# Below this distance two centers count as coincident: the square of a smaller one leaves float32's range.
COINCIDENT = 1e-15

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
    embeddings, centers = as_geometry(embeddings, centers)
    class_ids, cluster_ids = nearest_cluster(embeddings, centers)
    return ops.maximum(nearest_margin(embeddings, centers, class_ids, cluster_ids), 0.0) / lipschitz


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
    embeddings, centers = as_geometry(embeddings, centers)
    class_ids, _ = nearest_cluster(embeddings, centers)
    return ops.maximum(union_margin(embeddings, centers, class_ids), 0.0) / lipschitz


def nearest_margin(embeddings, centers, class_ids, cluster_ids, coincident=COINCIDENT):
    """`min_{b not in c} h_ab(z)` for a given center `a` of class `c` per example, in embedding units, `[B]`."""
    h = signed_distances(embeddings, centers, class_ids, coincident)
    chosen = ops.one_hot(cluster_ids, centers.shape[1], dtype="bool")[:, :, None]
    return ops.min(ops.where(chosen, h, float("inf")), axis=(1, 2))


def union_margin(embeddings, centers, class_ids, coincident=COINCIDENT):
    """`min_{b not in c} max_{a in c} h_ab(z)` for a given class `c` per example, in embedding units, `[B]`.

    Negative where another class is nearer.
    """
    h = signed_distances(embeddings, centers, class_ids, coincident)
    return ops.min(ops.max(h, axis=1), axis=-1)


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


def signed_distances(embeddings, centers, class_ids, coincident=COINCIDENT):
    """`h_ab(z)` for the centers `a` of one class per example against the centers `b` of all others.

    Args:
        embeddings: Floats `[B, D]`.
        centers: Floats `[C, K, D]`.
        class_ids: Ints `[B]`, the class that owns `a`.
        coincident: Centers this close have `h := 0`.

    Returns:
        Floats `[B, K, C*K]`; infinite where `b` belongs to the class itself.
    """
    num_classes, clusters, dim = centers.shape
    mean = _mean(centers)
    rivals = ops.reshape(centers, (-1, dim))
    rival_classes = ops.arange(num_classes * clusters) // clusters

    def of_examples(example):
        z, class_id = example
        own = ops.take(centers, class_id, axis=0)[..., None, :]  # [..., K, 1, D]
        normals, midpoints = _hyperplanes(own, rivals, mean, coincident)
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


def _is_small(shape):
    """Whether a tensor of this shape may be made for each example of a batch at a time."""
    return math.prod(shape) <= _CHUNK_FLOATS // 64


def _mean(centers):
    return ops.mean(centers, axis=(0, 1))


def _hyperplanes(own, rival, mean, coincident=COINCIDENT):
    """Unit normals from `rival` to `own` and midpoints relative to `mean`; normals of coincident centers are 0."""
    difference = own - rival
    square = ops.sum(difference**2, axis=-1, keepdims=True)
    distinct = square > coincident**2
    normals = ops.where(distinct, difference, 0.0) / ops.sqrt(ops.where(distinct, square, 1.0))
    return normals, 0.5 * ((own - mean) + (rival - mean))


def _signed_distances_by_class(embeddings, centers, class_ids):
    """`h_ab(z)`, `[B, n, K, C*K]`, of `n` classes for all examples; infinite where `b` is of the class itself."""
    num_classes, clusters, dim = centers.shape
    mean = _mean(centers)
    own = ops.take(centers, class_ids, axis=0)[:, :, None, :]
    normals, midpoints = _hyperplanes(own, ops.reshape(centers, (-1, dim)), mean)  # [n, K, C*K, D]
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
