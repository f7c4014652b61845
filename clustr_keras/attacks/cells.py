"""Voronoi cells of rival centers: which are near, and how to get there."""

import tensorflow as tf

from clustr_keras import certificates
from clustr_keras.attacks.steps import repeated
from clustr_keras.types import Tensor

# Coordinate ascent on the dual of a projection; one sweep is exact for one hyperplane.
_SWEEPS = 200


class RivalCells:
    """One rival center `b` for each example, and the cell `{w : h_ab(w) <= -depth for all a in c}` where it wins.

    With `w` relative to `mu_b` and `n_a` the unit normal from `mu_b` to the center `a` of the example's own class,
    `h_ab(w) = n_a . w - ||mu_a - mu_b|| / 2`: nothing cancels.

    Args:
        own: Floats `[B, K, D]`, the centers of each example's class.
        rival: Floats `[B, D]`, the rival center of each.
        depth: Floats `[B, 1]`: how far behind each of its faces the cell begins.
    """

    def __init__(self, own: Tensor, rival: Tensor, depth: Tensor = 0.0) -> None:
        difference = own - rival[:, None]
        spread = tf.norm(difference, axis=-1)
        self.rival = rival
        self.half_gaps = 0.5 * spread
        self.normals = tf.math.divide_no_nan(difference, spread[..., None])  # 0 for coincident centers
        self.gram = tf.matmul(self.normals, self.normals, transpose_b=True)
        self.depth = depth

    def project(self, embeddings: Tensor) -> Tensor:
        """The point of each example's cell that is nearest to its embedding, `[B, D]`.

        `w = z - sum_a l_a n_a` with `l` the maximizer of `l . h - 1/2 l^T G l` over `l >= 0`.
        """
        heights = tf.linalg.matvec(self.normals, embeddings - self.rival) - self.half_gaps + self.depth
        clusters = self.gram.shape[-1]

        def swept(_, multipliers):
            for a in range(clusters):
                residual = heights[:, a] - tf.reduce_sum(self.gram[:, a] * multipliers, axis=-1)
                moved = tf.maximum(multipliers[:, a] + tf.math.divide_no_nan(residual, self.gram[:, a, a]), 0.0)
                multipliers += (moved - multipliers[:, a])[:, None] * tf.one_hot(a, clusters)
            return (multipliers,)

        (multipliers,) = repeated(_SWEEPS if clusters > 1 else 1, swept, tf.zeros_like(heights))
        shift = tf.linalg.matvec(self.normals, multipliers, transpose_a=True)
        return embeddings - shift


def nearest_rivals(embeddings: Tensor, centers: Tensor, labels: Tensor, count: int) -> Tensor:
    """Flat ids `[B, count]` of the rival centers whose cells are nearest to each embedding, nearest first.

    Ranked by the distance to the cell among the `4 count` with the smallest `max_a h_ab`, a lower bound of it.

    Args:
        embeddings: Floats `[B, D]`.
        centers: Floats `[C, K, D]`.
        labels: Ints `[B]`, the classes whose own centers are no rivals.
        count: Integer, at most (C - 1) K.

    Returns:
        Ints `[B, count]`.
    """
    num_classes, clusters, dim = centers.shape
    bounds = tf.reduce_max(certificates.signed_distances(embeddings, centers, labels), axis=1)
    pool = min(4 * count, (num_classes - 1) * clusters)
    candidates = tf.math.top_k(-bounds, pool).indices
    rivals = tf.reshape(tf.gather(tf.reshape(centers, (-1, dim)), candidates), (-1, dim))
    cells = RivalCells(tf.repeat(tf.gather(centers, labels), pool, axis=0), rivals)
    repeated = tf.repeat(embeddings, pool, axis=0)
    to_cell = tf.reshape(tf.norm(cells.project(repeated) - repeated, axis=-1), (-1, pool))
    return tf.gather(candidates, tf.math.top_k(-to_cell, count).indices, batch_dims=1)
