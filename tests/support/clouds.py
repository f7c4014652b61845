"""Random embeddings and centers, and what is true of them by definition."""

import keras
import numpy as np
from hypothesis import strategies as st


def clouds(max_classes=6, max_clusters=4, max_dim=8, batch=4):
    """Random points and centers, in float64; on JAX of one shape."""

    @st.composite
    def draw(draw):
        if keras.backend.backend() == "tensorflow":
            num_classes = draw(st.integers(2, max_classes))
            clusters = draw(st.integers(1, max_clusters))
            dim = draw(st.integers(1, max_dim))
        else:  # each shape would be compiled anew
            num_classes, clusters, dim = 3, min(2, max_clusters), 3
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        centers = rng.normal(size=(num_classes, clusters, dim))
        # Some with centers crowded in the middle, so that many rivals are nearly as near as the nearest.
        centers *= 10.0 ** -rng.uniform(0, draw(st.sampled_from([1e-9, 1e-9, 2.0])), size=(num_classes, clusters, 1))
        return centers.mean(axis=(0, 1)) + rng.normal(size=(batch, dim)), centers

    return draw()


def hyperplane_distance(z, own, rival):
    """The definition of `h_ab`, term by term."""
    gap = np.linalg.norm(own - rival)
    return 0.0 if gap == 0 else (np.sum((z - rival) ** 2) - np.sum((z - own) ** 2)) / (2 * gap)


def class_of_nearest_center(points, centers):
    distances = ((points[:, None, None] - centers) ** 2).sum(-1).min(-1)
    return distances.argmin(-1)
