"""K-means within each class."""

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np
import sklearn.cluster
import sklearn.exceptions
import threadpoolctl

from clustr_keras.types import Floats, Ints

# The posterior divides by the variance; float32 squares of what remains of it still have room.
_LEAST_VARIANCE = 1e-12


@dataclasses.dataclass(frozen=True, eq=False)
class Clusters:
    """K clusters of each class, none of them empty.

    Args:
        assignments: int64 `[N]`, cluster `class * K + k` of each example.
        centers: float32 `[C, K, D]`.
        variance: Float, `sum_n min_k ||z_n - mu[c_n, k]||^2 / (N - 1)`, one for all clusters.
    """

    assignments: Ints
    centers: Floats
    variance: float


def k_means_by_class(
    embeddings: Floats,
    labels: Ints,
    num_classes: int,
    clusters_per_class: int,
    n_init: int = 1,
    max_iter: int = 20,
    minibatch_above: int = 100_000,
    seed: int | Sequence[int] = 0,
) -> Clusters:
    """Finds K centers for each class that lie near its embeddings.

    For each class c on its own, centers `mu[c, k]` of small `sum_n min_k ||z_n - mu[c, k]||^2` over its examples, from
    Lloyd's algorithm after a k-means++ start. A cluster left empty, as happens with equal embeddings, takes the example
    that is farthest from its center. The variance is at least 1e-12.

    Args:
        embeddings: Floats `[N, D]`.
        labels: Class ids `[N]`.
        num_classes: Integer C.
        clusters_per_class: Integer K.
        n_init: Integer, starts per class; the best counts.
        max_iter: Integer, iterations per start.
        minibatch_above: Integer; a class of more examples gets mini-batch k-means.
        seed: Integer, or a sequence of integers.

    Returns:
        `Clusters`.

    Raises:
        ValueError: If a class has fewer than K examples, or an embedding is not finite.

    Example:

    >>> found = k_means_by_class(np.array([[0.0], [1.0], [5.0], [7.0]]), np.array([0, 0, 1, 1]), 2, 1)
    >>> found.centers.ravel(), found.variance
    [0.5, 6.0], 0.833

    Reference:
        Arthur and Vassilvitskii, k-means++: The Advantages of Careful Seeding, SODA 2007.
    """
    check_class_sizes(labels, num_classes, clusters_per_class)
    is_finite = np.isfinite(embeddings).all(axis=-1)
    if not is_finite.all():
        raise ValueError(
            f"{np.mean(~is_finite):.0%} of the embeddings are not finite: training diverged. "
            "Lower the learning rate, or clip the gradients."
        )
    assignments = np.empty(len(labels), "int64")
    centers = np.empty((num_classes, clusters_per_class, embeddings.shape[-1]), "float32")
    square_sum = 0.0
    # In one thread sums have one order, and the same seed gives the same centers to the last bit.
    with threadpoolctl.threadpool_limits(1):
        for c in range(num_classes):
            rows = np.flatnonzero(labels == c)
            points = embeddings[rows].astype("float32", copy=False)
            method = sklearn.cluster.KMeans if len(rows) <= minibatch_above else sklearn.cluster.MiniBatchKMeans
            # The entropy of seed and class, so that neither two classes nor two epochs start alike.
            state = np.random.SeedSequence([*np.ravel(seed), c]).generate_state(1)
            k_means = method(clusters_per_class, n_init=n_init, max_iter=max_iter, random_state=int(state[0]))
            with warnings.catch_warnings():
                # Fewer distinct points than clusters, which what follows takes care of.
                warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
                k_means.fit(points)
            own, centers[c] = _fill_empty(points, k_means.labels_, k_means.cluster_centers_)
            assignments[rows] = c * clusters_per_class + own
            square_sum += _squared_distances(points, centers[c]).min(axis=-1).sum(dtype="float64")
    return Clusters(assignments, centers, max(float(square_sum / (len(labels) - 1)), _LEAST_VARIANCE))


def check_class_sizes(labels: Ints, num_classes: int, clusters_per_class: int) -> None:
    """Checks that each class has an example for each of its clusters.

    Raises:
        ValueError: If a class has fewer than K; the message names it.
    """
    sizes = np.bincount(labels, minlength=num_classes)
    if sizes.min() < clusters_per_class:
        c = int(np.argmin(sizes))
        raise ValueError(
            f"class {c} has {sizes[c]} examples, fewer than clusters_per_class={clusters_per_class}. "
            "Pass a smaller clusters_per_class, or more examples of that class."
        )


def _fill_empty(points, own, centers):
    own, centers = own.copy(), centers.copy()
    sizes = np.bincount(own, minlength=len(centers))
    for empty in np.flatnonzero(sizes == 0):
        distances = np.sum((points - centers[own]) ** 2, axis=-1)
        moved = int(np.argmax(np.where(sizes[own] > 1, distances, -1.0)))
        donor = own[moved]
        own[moved] = empty
        centers[empty], centers[donor] = points[moved], points[own == donor].mean(axis=0)
        sizes[donor] -= 1
        sizes[empty] += 1
    return own, centers


def _squared_distances(points, centers):
    """`||z - mu||^2` from differences, which do not cancel, `[N, K]`."""
    return np.stack([np.sum((points - center) ** 2, axis=-1) for center in centers], axis=-1)
