"""Squared distances to centers, and the nearest one."""

from keras import ops

from clustr_keras.certificates.chunks import is_small
from clustr_keras.types import ArrayLike, Tensor


def squared_distances(embeddings: Tensor | ArrayLike, centers: Tensor | ArrayLike) -> Tensor:
    """Squared distances `||z - mu||^2` to every center.

    Args:
        embeddings: Floats `[B, D]`.
        centers: Floats `[C, K, D]`.

    Returns:
        Floats `[B, C, K]`, never negative.

    Raises:
        ValueError: If the shapes are others.

    Example:

    >>> squared_distances([[0.0, 1.0]], [[[0.0, 0.0]], [[4.0, 0.0]]])
    [[[1.0], [17.0]]]
    """
    embeddings, centers = as_geometry(embeddings, centers)

    def of_examples(z):
        return ops.sum(ops.square(z[..., None, None, :] - centers), axis=-1)

    return of_examples(embeddings) if is_small(centers.shape) else ops.map(of_examples, embeddings)


def nearest_cluster(embeddings: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Class and cluster of the center nearest to each embedding.

    Args:
        embeddings: Floats `[B, D]`.
        centers: Floats `[C, K, D]`.

    Returns:
        Two int arrays `[B]`: class ids, and places `0..K-1` of the clusters in their classes.

    Raises:
        ValueError: If the shapes are others.

    Example:

    >>> nearest_cluster(ops.array([[0.0, 1.0]]), ops.array([[[9.0, 0.0], [0.0, 0.0]], [[4.0, 0.0], [5.0, 0.0]]]))
    ([0], [1])
    """
    clusters = centers.shape[1]
    distances = squared_distances(embeddings, centers)
    nearest = ops.argmin(ops.reshape(distances, (-1, centers.shape[0] * clusters)), axis=-1)
    return nearest // clusters, nearest % clusters


def norms(vectors: Tensor, keepdims: bool = False) -> Tensor:
    """Norms along the last axis. Not by `ops.norm`, which on JAX computes those of float64 in float32."""
    return ops.sqrt(ops.sum(ops.square(vectors), axis=-1, keepdims=keepdims))


def as_geometry(embeddings: Tensor | ArrayLike, centers: Tensor | ArrayLike) -> tuple[Tensor, Tensor]:
    """Tensors of one dtype (the embeddings'), after a check of the shapes."""
    embeddings = ops.convert_to_tensor(embeddings)
    centers = ops.cast(ops.convert_to_tensor(centers), embeddings.dtype)
    if len(embeddings.shape) != 2 or len(centers.shape) != 3 or embeddings.shape[-1] != centers.shape[-1]:
        raise ValueError(
            "embeddings must be [B, D] and centers [C, K, D] with the same D; "
            f"got {tuple(embeddings.shape)} and {tuple(centers.shape)}."
        )
    return embeddings, centers
