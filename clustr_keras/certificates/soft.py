"""Class scores that every cluster votes for."""

import numpy as np
from keras import ops

from clustr_keras.certificates.distances import norms, squared_distances
from clustr_keras.types import ArrayLike, Tensor


def soft_scores(embeddings: Tensor | ArrayLike, centers: Tensor | ArrayLike, variance: Tensor) -> Tensor:
    """Scores of the classes in which every cluster has its say, `logsumexp_k(-||z - mu_ck||^2 / (2 s^2))`.

    Args:
        embeddings: Floats `[B, D]`.
        centers: Floats `[C, K, D]`.
        variance: Positive float s^2, or floats `[C, K]`, one for each cluster.

    Returns:
        Floats `[B, C]`.

    Raises:
        ValueError: If the shapes are others.

    Example:

    >>> soft_scores([[0.0, 1.0]], [[[0.0, 0.0]], [[4.0, 0.0]]], variance=0.5)
    [[-1.0, -17.0]]

    Reference:
        Alfarra et al., Rethinking Clustering for Robustness, BMVC 2021, in log space.
    """
    return ops.logsumexp(-squared_distances(embeddings, centers) / (2.0 * variance), axis=-1)


def shared_variance(variance: Tensor | ArrayLike) -> float:
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


def largest_gaps(centers: Tensor) -> Tensor:
    """`max_{k,l} ||mu_ck - mu_jl||`, `[C, C]`, a class at a time."""

    def of_class(own):
        return ops.max(norms(own[:, None, None, :] - centers), axis=(0, 2))

    return ops.map(of_class, centers)
