"""What depends on frozen centers alone, computed once in NumPy float64 and kept as weights."""

from typing import Any

import keras
import numpy as np
from keras import ops

from clustr_keras.certificates.distances import norms
from clustr_keras.certificates.floats import widest_float
from clustr_keras.certificates.hyperplanes import COINCIDENT
from clustr_keras.certificates.projection import active_sets, dual_weights
from clustr_keras.types import Floats, Tensor

# Tables larger than this are not made; their entries are computed when they are needed.
_TABLE_FLOATS = 2**22


class CenterGeometry(keras.layers.Layer):
    """Distances of frozen centers, the products of their hyperplanes' normals, and what a projection solves.

    Args:
        centers: Array `[C, K, D]`.
        projects: Whether the last two are needed.

    Attributes:
        mean: `[D]`, of all centers.
        centers: `[C*K, D]`, relative to the mean.
        half_squares: `[C*K]`, `||mu||^2 / 2`.
        spread: Float, at least the largest `||mu||`.
    """

    def __init__(self, centers: Floats, projects: bool = False, **kwargs: Any) -> None:
        super().__init__(dtype=widest_float(), autocast=False, trainable=False, **kwargs)
        self.num_classes, self.clusters, self.dim = centers.shape
        centers = np.asarray(centers, "float64")
        mean = centers.mean(axis=(0, 1)).astype(self.dtype)
        # From here on the centers are what is stored.
        centers = (centers - mean).astype(self.dtype).astype("float64")
        squares = np.square(centers).sum(axis=-1)
        flat = centers.reshape(-1, self.dim)
        self.mean = self._constant("mean", mean)
        self.centers = self._constant("centers", flat)
        self.half_squares = self._constant("half_squares", 0.5 * squares.reshape(-1))
        self.spread = float(np.sqrt(squares.max())) * (1.0 + 2.0**-40)
        self._gap_table = self._normal_table = self._dual_table = None
        if len(flat) ** 2 <= _TABLE_FLOATS:
            gaps = np.stack([np.linalg.norm(flat[:, None] - own, axis=-1) for own in centers])  # [C, C*K, K]
            inverse_gaps = np.divide(1.0, gaps, out=np.zeros_like(gaps), where=gaps > COINCIDENT)
            self._gap_table = self._constant("inverse_gaps", inverse_gaps)
            sets = active_sets(self.clusters)
            if projects and sets and self.clusters * len(sets) * len(flat) ** 2 <= _TABLE_FLOATS:
                self._make_dual_tables(centers, inverse_gaps, sets)
        self.built = True

    def inverse_gaps(self, class_ids: Tensor) -> Tensor:
        """`1 / ||mu_a - mu_b||` for the centers `a` of n classes and all `b`, `[n, C*K, K]`; 0 for coincident ones."""
        if self._gap_table is not None:
            return ops.take(self._gap_table, class_ids, axis=0)

        def of_class(class_id):
            return _inverse(norms(self.centers[:, None, :] - ops.take(self._by_class(), class_id, axis=0)))

        return ops.map(of_class, ops.convert_to_tensor(class_ids))

    def inverse_gaps_between(self, own: Tensor, rival: Tensor) -> Tensor:
        """The same for pairs of centers: flat ids `[...]` of both."""
        if self._gap_table is not None:
            row = (own // self.clusters) * (self.num_classes * self.clusters) + rival
            return ops.take(ops.reshape(self._gap_table, (-1,)), row * self.clusters + own % self.clusters)
        return _inverse(norms(ops.take(self.centers, own, axis=0) - ops.take(self.centers, rival, axis=0)))

    def normal_products(self, class_ids: Tensor, rivals: Tensor) -> Tensor:
        """`n_ab . n_a'b` of the centers `a`, `a'` of a class per example and T rivals `b` each, `[B, T, K, K]`."""
        if self._normal_table is not None:
            return ops.take(self._normal_table, self._rows(class_ids, rivals), axis=0)
        own = ops.take(self._by_class(), class_ids, axis=0)[:, None]  # [B, 1, K, D]
        rival = ops.take(self.centers, rivals, axis=0)[:, :, None]  # [B, T, 1, D]
        # The same inverse as in a signed distance: what is 0 there must be 0 here.
        inverse_gaps = ops.take_along_axis(self.inverse_gaps(class_ids), rivals[:, :, None], axis=1)
        normals = (own - rival) * inverse_gaps[..., None]
        return ops.matmul(normals, ops.swapaxes(normals, -1, -2))

    def dual_weights(self, class_ids: Tensor, rivals: Tensor, h: Tensor) -> Tensor:
        """`projection.dual_weights` for the same and signed distances `h` `[B, T, K]`."""
        if self._dual_table is None:
            return dual_weights(self.normal_products(class_ids, rivals), h)
        solutions = ops.take(self._dual_table, self._rows(class_ids, rivals), axis=0)  # [B, T, S*K, K]
        weights = ops.maximum(ops.matmul(solutions, h[..., None])[..., 0], 0.0)
        return ops.reshape(weights, (-1, *rivals.shape[1:], weights.shape[-1] // self.clusters, self.clusters))

    def _make_dual_tables(self, centers, inverse_gaps, sets):
        flat = centers.reshape(-1, 1, self.dim)
        grams = []
        for own, inverse in zip(centers, inverse_gaps, strict=True):
            normals = (own - flat) * inverse[..., None]
            grams.append(normals @ normals.swapaxes(-1, -2))
        gram = np.concatenate(grams)  # [C * C*K, K, K]
        solutions = np.zeros((len(gram), len(sets), self.clusters, self.clusters))
        for index, active in enumerate(sets):
            block = np.ix_(range(len(gram)), active, active)
            solutions[:, index][block] = np.linalg.pinv(gram[block], rcond=1e-9, hermitian=True)
        self._normal_table = self._constant("normal_products", gram)
        self._dual_table = self._constant("solutions", solutions.reshape(len(gram), -1, self.clusters))

    def _rows(self, class_ids, rivals):
        return class_ids[:, None] * (self.num_classes * self.clusters) + ops.cast(rivals, "int32")

    def _by_class(self):
        return ops.reshape(self.centers, (self.num_classes, self.clusters, self.dim))

    def _constant(self, name, value):
        weight = self.add_weight(name=name, shape=value.shape, initializer="zeros", trainable=False)
        weight.assign(value.astype(self.dtype))
        return weight


def _inverse(gaps):
    is_distinct = gaps > COINCIDENT
    return ops.where(is_distinct, 1.0 / ops.where(is_distinct, gaps, 1.0), 0.0)
