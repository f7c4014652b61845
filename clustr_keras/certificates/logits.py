"""Distance logits: the union margin of every class."""

from collections.abc import Callable, Sequence

import numpy as np
from keras import ops

from clustr_keras.certificates import chunks
from clustr_keras.certificates.distances import as_geometry
from clustr_keras.certificates.hyperplanes import hyperplanes, mean_of, signed_distances_by_class
from clustr_keras.types import ArrayLike, Tensor


def distance_logits(embeddings: Tensor | ArrayLike, centers: Tensor | ArrayLike) -> Tensor:
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
    chunk = max(1, chunks.CHUNK_FLOATS // (num_classes * clusters**2 * dim))
    if chunk >= num_classes:
        h = signed_distances_by_class(embeddings, centers, ops.arange(num_classes))
        return ops.min(ops.max(h, axis=2), axis=-1)
    given = ops.stop_gradient(embeddings), ops.stop_gradient(centers)

    def of_classes(class_ids):
        h = signed_distances_by_class(*given, class_ids)
        return ops.unstack(h, axis=2), ops.max(h, axis=2)

    own, rival = deciding_pairs(of_classes, num_classes, clusters, chunk)
    flat = ops.reshape(centers, (-1, dim))
    normals, midpoints = hyperplanes(ops.take(flat, own, axis=0), ops.take(flat, rival, axis=0), mean_of(centers))
    z = embeddings - mean_of(centers)
    return ops.sum(normals * (z[:, None, :] - midpoints), axis=-1)


def deciding_pairs(
    signed_distances: Callable[[Tensor], tuple[Sequence[Tensor], Tensor]], num_classes: int, clusters: int, chunk: int
) -> tuple[Tensor, Tensor]:
    """Flat ids `[B, C]` of the pair of centers (own, rival) that decides each class's margin.

    Args:
        signed_distances: From ids `[n]` of classes to a pair: `h_ab` for each center `a` of theirs, K tensors
            `[B, n, C*K]`, and the maximum of these, infinite where `b` is of the class itself.
        num_classes, clusters: Integers C and K.
        chunk: Integer, so many classes are looked at at a time.
    """
    count = -(-num_classes // chunk)
    # The last chunk repeats the last class; the surplus is cut off below.
    class_ids = np.minimum(np.arange(count * chunk).reshape(count, chunk), num_classes - 1).astype("int32")

    def of_chunk(class_ids):
        h, union = signed_distances(class_ids)
        rival = ops.cast(ops.argmin(union, axis=-1), "int32")  # [B, chunk]
        of_rival = ops.stack([ops.take_along_axis(of_k, rival[:, :, None], axis=-1)[..., 0] for of_k in h], axis=-1)
        return ops.stack([class_ids * clusters + ops.cast(ops.argmax(of_rival, axis=-1), "int32"), rival])

    pairs = ops.map(of_chunk, ops.convert_to_tensor(class_ids))  # [count, 2, B, chunk]
    pairs = ops.reshape(ops.transpose(pairs, (1, 2, 0, 3)), (2, -1, count * chunk))[:, :, :num_classes]
    return pairs[0], pairs[1]
