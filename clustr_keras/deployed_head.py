"""The head as it is deployed: class, logits and margins from one product of the embeddings with frozen centers."""

import functools
from typing import Any

import keras
import numpy as np
from keras import ops

from clustr_keras.center_geometry import CenterGeometry
from clustr_keras.certificates.distances import norms
from clustr_keras.certificates.floats import unit_roundoff, widest_float
from clustr_keras.certificates.logits import deciding_pairs
from clustr_keras.certificates.margins import closest_rivals
from clustr_keras.certificates.projection import half_space_distance
from clustr_keras.lipschitz.registry import FLOAT32_UNDERFLOW
from clustr_keras.lipschitz.spectral import gamma
from clustr_keras.types import Floats, Tensor

# So many pairs of centers are compared at a time, for each example.
_PAIRS_AT_A_TIME = 2**14


class DeployedHead(keras.layers.Layer):
    """Classes, distance logits and margins by scores: `s_b(z) = (z - m) . mu_b - ||mu_b||^2 / 2`.

    With the centers `mu` relative to their mean `m` the nearest center has the largest score, and the signed distance
    to a bisecting hyperplane is a difference of two: `h_ab(z) = (s_a - s_b) / ||mu_a - mu_b||`. One product with the
    centers makes all of it, and class, nearest cluster and logits compare the same scores.

    **Rounding.** A computed score is off by at most `E = gamma_(D+16) (||z - m|| + max ||mu||)^2 / 2`, which covers the
    subtraction of two as well. (`z - m` is rounded once, the inner product D times, the stored `||mu||^2 / 2` D + 1
    times, each difference once more; `gamma_n = n u / (1 - n u)` with the unit roundoff `u`.) What may be flushed to
    zero, 2 (D + 4) numbers on the way to a score, is added to that. The same `gamma` covers the inverse distances
    between centers and products with them, whose error is relative.

    Args:
        centers: Array `[C, K, D]`.
        method: `"nearest"`, `"union"` or `"exact"`.

    Reference:
        Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1, for inner products.
    """

    def __init__(self, centers: Floats, method: str = "union", **kwargs: Any) -> None:
        super().__init__(dtype=widest_float(), autocast=False, trainable=False, **kwargs)
        self.num_classes, self.clusters, self.dim = centers.shape
        self.method = method
        self.projects = method == "exact" and self.clusters > 1
        self.geometry = CenterGeometry(centers, self.projects)
        self.owners = np.arange(self.num_classes * self.clusters, dtype="int32") // self.clusters
        self.relative_error = gamma(self.dim + 16, unit_roundoff(self.dtype))
        self.built = True

    def scores(self, embeddings: Tensor) -> Tensor:
        """`s_b(z)` for every center `b`, floats `[B, C*K]`."""
        z = ops.cast(embeddings, self.dtype) - self.geometry.mean
        return ops.matmul(z, ops.transpose(self.geometry.centers)) - self.geometry.half_squares

    def size(self, embeddings: Tensor) -> Tensor:
        """`||z - m|| + max ||mu||`, floats `[B]`."""
        return norms(ops.cast(embeddings, self.dtype) - self.geometry.mean) + self.geometry.spread

    def error(self, size: Tensor) -> Tensor:
        """Bound `E` on the error of a score at a given size."""
        of_underflow = 2.0 * (self.dim + 4) * FLOAT32_UNDERFLOW * (1.0 + size)
        return 0.5 * self.relative_error * size**2 + of_underflow

    def nearest_cluster(self, scores: Tensor) -> Tensor:
        """Flat id `class * K + cluster` of the nearest center, ints `[B]`."""
        return ops.cast(ops.argmax(scores, axis=-1), "int32")

    def logits(self, scores: Tensor) -> Tensor:
        """Union margin of every class, `[B, C]`, in embedding units; see `certificates.distance_logits`."""
        chunk = _PAIRS_AT_A_TIME // (self.num_classes * self.clusters**2)
        if chunk >= self.num_classes:
            class_ids = np.arange(self.num_classes, dtype="int32")
            return ops.min(self._union(self._signed_distances(scores, class_ids), class_ids), axis=-1)
        given = ops.stop_gradient(scores)

        def of_classes(class_ids):
            h = self._signed_distances(given, class_ids)
            return h, self._union(h, class_ids)

        own, rival = deciding_pairs(of_classes, self.num_classes, self.clusters, max(1, chunk))
        differences = ops.take_along_axis(scores, own, axis=-1) - ops.take_along_axis(scores, rival, axis=-1)
        return differences * self.geometry.inverse_gaps_between(own, rival)

    def distance_to_rivals(self, size: Tensor, scores: Tensor, class_ids: Tensor) -> Tensor:
        """Upper bound of the distance of `z` to the nearest center of another class, `[B]`. No margin exceeds it."""
        nearest = ops.max(ops.where(self.owners == class_ids[:, None], -float("inf"), scores), axis=-1)
        # ||z - mu||^2 = ||z - m||^2 - 2 s
        square = (size - self.geometry.spread) ** 2 - 2.0 * (nearest - 2.0 * self.error(size))
        return ops.sqrt(ops.maximum(square, 0.0))

    def margins(self, scores: Tensor, class_ids: Tensor, slack: Tensor) -> tuple[Tensor, Tensor]:
        """The margin of given classes, and what remains of it when the scores of all rivals are raised by `slack`.

        Args:
            scores: Floats `[B, C*K]`.
            class_ids: Ints `[B]`.
            slack: Floats `[B]`.

        Returns:
            Two arrays of floats `[B]`, in embedding units, without and with slack. The second is a lower bound of the
            distance of `z` to where some rival `b` has `s_a - s_b <= slack` for all `a` of the class (for `nearest`:
            for the nearest such `a`), its own rounding subtracted, save that of the scores.
        """
        slack = slack[:, None]
        # Of the distances between centers and of products with them; relative.
        shrunk = 1.0 - self.relative_error
        per_rival = self._margin_per_rival(scores, class_ids, slack)
        if not self.projects:
            without = self._margin_per_rival(scores, class_ids, 0.0)
            return ops.min(without, axis=-1), shrunk * ops.min(per_rival, axis=-1)
        rivals, of_rest = closest_rivals(per_rival, (self.num_classes - 1) * self.clusters)
        own = self._of_class(scores, class_ids)[:, None, :]
        of_rivals = ops.take_along_axis(scores, rivals, axis=-1)
        gaps = ops.take_along_axis(self.geometry.inverse_gaps(class_ids), rivals[:, :, None], axis=1)
        gram = self.geometry.normal_products(class_ids, rivals)

        def signed_distances(slack):
            return (own - (of_rivals + slack)[:, :, None]) * gaps  # [B, T, K]

        weights = self.geometry.dual_weights(class_ids, rivals, signed_distances(slack))

        def exact(slack):
            h = signed_distances(slack)
            projected = half_space_distance(weights, gram, h, self.dim)
            return ops.minimum(ops.min(ops.maximum(projected, ops.max(h, axis=-1)), axis=-1), of_rest)

        return exact(0.0), shrunk * exact(slack)

    def _margin_per_rival(self, scores, class_ids, slack):
        """`max_a (s_a - s_b - slack) / ||mu_a - mu_b||`, `[B, C*K]`; infinite for the class's own centers."""
        own = self._of_class(scores, class_ids)
        h = (own[:, None, :] - (scores + slack)[:, :, None]) * self.geometry.inverse_gaps(class_ids)
        if self.method == "nearest":
            is_nearest = ops.one_hot(ops.argmax(own, axis=-1), self.clusters, dtype="bool")
            h = ops.where(is_nearest[:, None, :], h, -float("inf"))
        return ops.where(self.owners == class_ids[:, None], float("inf"), ops.max(h, axis=-1))

    def _signed_distances(self, scores, class_ids):
        """`h_ab` for the centers `a` of n classes, the same for all examples: K tensors `[B, n, C*K]`."""
        own = ops.take(self._by_class(scores), class_ids, axis=1)
        gaps = self.geometry.inverse_gaps(class_ids)
        return [(own[:, :, k, None] - scores[:, None, :]) * gaps[:, :, k] for k in range(self.clusters)]

    def _union(self, h, class_ids):
        """`max_a h_ab` of n classes, `[B, n, C*K]`; infinite for the class's own centers."""
        return ops.where(self.owners == class_ids[:, None], float("inf"), functools.reduce(ops.maximum, h))

    def _by_class(self, scores):
        return ops.reshape(scores, (-1, self.num_classes, self.clusters))

    def _of_class(self, scores, class_ids):
        return ops.take_along_axis(self._by_class(scores), class_ids[:, None, None], axis=1)[:, 0]
