"""Signed distances to the hyperplanes that bisect centers of two classes."""

from keras import ops

from clustr_keras.certificates.chunks import is_small
from clustr_keras.certificates.distances import norms
from clustr_keras.types import Tensor

# Below this distance two centers count as coincident: the square of a smaller one leaves float32's range.
COINCIDENT = 1e-15

# Up to so many classes the hyperplanes of all of them are made for a whole batch.
_TABLED_CLASSES = 32


def signed_distances(embeddings: Tensor, centers: Tensor, class_ids: Tensor) -> Tensor:
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
        h = signed_distances_by_class(embeddings, centers, ops.arange(num_classes))
        return ops.take_along_axis(h, ops.cast(class_ids, "int32")[:, None, None, None], axis=1)[:, 0]
    mean = mean_of(centers)
    rivals = ops.reshape(centers, (-1, dim))
    rival_classes = ops.arange(num_classes * clusters) // clusters

    def of_examples(example):
        z, class_id = example
        own = ops.take(centers, class_id, axis=0)[..., None, :]  # [..., K, 1, D]
        normals, midpoints = hyperplanes(own, rivals, mean)
        h = ops.sum(normals * (z[..., None, None, :] - midpoints), axis=-1)
        same = rival_classes == ops.cast(class_id, rival_classes.dtype)[..., None]
        return ops.where(same[..., None, :], float("inf"), h)

    examples = (embeddings - mean, class_ids)
    return of_examples(examples) if is_small((clusters, *centers.shape)) else ops.map(of_examples, examples)


def signed_distances_by_class(embeddings: Tensor, centers: Tensor, class_ids: Tensor) -> Tensor:
    """`h_ab(z)`, `[B, n, K, C*K]`, of `n` classes for all examples; infinite where `b` is of the class itself."""
    num_classes, clusters, dim = centers.shape
    mean = mean_of(centers)
    own = ops.take(centers, class_ids, axis=0)[:, :, None, :]
    rivals = ops.reshape(centers, (-1, dim))
    normals, midpoints = hyperplanes(own, rivals, mean)  # [n, K, C*K, D]
    offsets = ops.sum(normals * midpoints, axis=-1)
    products = ops.matmul(embeddings - mean, ops.transpose(ops.reshape(normals, (-1, dim))))
    h = ops.reshape(products, (-1, *offsets.shape)) - offsets
    rival_classes = ops.arange(num_classes * clusters) // clusters
    same = ops.cast(class_ids, rival_classes.dtype)[:, None] == rival_classes
    return ops.where(same[:, None, :], float("inf"), h)


def hyperplanes(own: Tensor, rival: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Unit normals from `rival` to `own` and midpoints relative to `mean`; normals of coincident centers are 0."""
    difference = own - rival
    square = ops.sum(difference**2, axis=-1, keepdims=True)
    distinct = square > COINCIDENT**2
    normals = ops.where(distinct, difference, 0.0) / ops.sqrt(ops.where(distinct, square, 1.0))
    return normals, 0.5 * ((own - mean) + (rival - mean))


def normal_products(centers: Tensor, class_ids: Tensor, rivals: Tensor) -> Tensor:
    """`n_ab . n_a'b` for the centers `a`, `a'` of one class per example and T rivals `b` each, `[B, T, K, K]`."""
    num_classes, clusters, dim = centers.shape
    flat = ops.reshape(centers, (-1, dim))
    if num_classes <= _TABLED_CLASSES:
        normals, _ = hyperplanes(centers[:, None], flat[:, None], mean_of(centers))  # [C, C*K, K, D]
        table = ops.reshape(ops.matmul(normals, ops.swapaxes(normals, -1, -2)), (-1, clusters, clusters))
        pairs = ops.cast(class_ids, "int32")[:, None] * (num_classes * clusters) + ops.cast(rivals, "int32")
        return ops.take(table, pairs, axis=0)
    own = ops.take(centers, class_ids, axis=0)[:, None]  # [B, 1, K, D]
    rival = ops.take(flat, rivals, axis=0)[:, :, None]  # [B, T, 1, D]
    normals, _ = hyperplanes(own, rival, mean_of(centers))
    return ops.matmul(normals, ops.swapaxes(normals, -1, -2))


def signed_distance_error(size: Tensor, dim: int, unit_roundoff: float) -> Tensor:
    """Bound on the error of a computed `h_ab`, with `size` at least `||z - mean|| + max ||mu - mean||`.

    The normal is off by at most `gamma_(D+4)` in norm (its difference of centers is exact up to one rounding, whatever
    they have in common), the centered embedding and the midpoint by 2 roundings relative to `size`, the inner products
    by `gamma_D` of the norms of their factors: together less than `gamma_(3D+32) size`.
    """
    operations = (3 * dim + 32) * unit_roundoff
    return operations / (1.0 - operations) * size


def size_about_mean(embeddings: Tensor, centers: Tensor) -> Tensor:
    """`||z - mean|| + max ||mu - mean||`, floats `[B, 1]`."""
    mean = mean_of(centers)
    return norms(embeddings - mean, keepdims=True) + ops.max(norms(centers - mean))


def mean_of(centers: Tensor) -> Tensor:
    """The mean of all centers, `[D]`."""
    return ops.mean(centers, axis=(0, 1))
