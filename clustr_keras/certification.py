"""The model that is deployed: images in, class and certified radius out, with float32 rounding accounted for."""

import keras
import numpy as np
from keras import ops

from clustr_keras import certificates
from clustr_keras.lipschitz.arithmetic import is_ieee_float32
from clustr_keras.lipschitz.bounds import FLOAT32_ROUNDOFF, FLOAT32_UNDERFLOW
from clustr_keras.lipschitz.spectral import UNIT_ROUNDOFF, gamma

METHODS = ("nearest", "union")

# Where no number on the way is larger, no square and no sum of products leaves float32's range.
_LARGEST = 2.0**60


class Certifier(keras.Model):
    """Classifies images and proves how far each may move, for one frozen backbone.

    **Theorem.** Let the backbone and the head be evaluated in IEEE float32 (any order of summation, with or without
    fused multiply-add, subnormals kept or flushed; no TF32, no reduced precision, no Winograd or FFT). Then for every
    float32 image `x'` with `||x' - x||_2 < certified_radius(x)` the argmax of the distance logits that evaluation
    gives for `x'` is that of `x`.

    **Proof.** Let `s(x)` bound the backbone's rounding at `x` (`LipschitzBound`), `z` be the computed embedding, `m(z)`
    the margin of the winning class `c` (`nearest` or `union`) and `e(z)` a bound on the head's error in any one
    `h_ab`. The margin is 1-Lipschitz, and the computed embeddings of `x'` and `x` differ by at most
    `L ||x' - x|| + s(x') + s(x)`. If that is less than `m(z) - 8 e(z')`, then `m(z') > 8 e(z')`: for each rival `b`
    some `a` of class `c` has `h_ab(z') > 8 e(z')`. The head picks a deciding pair by computed values and computes it
    once more, so each logit is off by at most `3 e(z')`: that of `c` exceeds `5 e(z')`, while that of any other class,
    at most 0 in exact arithmetic, stays below `3 e(z')`. The division by L that follows cannot close such a gap.
    `s` and `e` grow with the norm of their argument, and `||x'|| <= ||x|| + r`, where `r = m(z) / L` bounds the
    radius: they are taken there. What is computed here is in float64, with its own rounding subtracted, and rounded
    downward to float32. Where a number on the way might leave float32's range, nothing is certified.

    Args:
        backbone: `keras.Model` from images to embeddings, with plain weights (see `lipschitz.condense`).
        head: `ClusterHead`.
        bound: `LipschitzBound` of that backbone.
        method: `"nearest"` or `"union"`.

    Input shape:
        Images `[B, H, W, C]`.

    Output shape:
        A dict: `class_ids`, `nearest_cluster` (flat: `class * K + cluster`), `runner_up_class_ids` (second largest
        logit), int `[B]`; `logits` `[B, C]`; `probabilities` `[B, C]`; `embeddings` `[B, D]`; `radius` `[B]`, in real
        arithmetic; and `certified_radius` `[B]`, only if the bound comes with a rounding analysis.
    """

    def __init__(self, backbone, head, bound, method="union", **kwargs):
        # In float32 under any global policy: a lower one would round the images before anything else.
        super().__init__(dtype="float32", **kwargs)
        if method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}; got {method!r}.")
        self.backbone = backbone
        self.head = head
        self.bound = bound
        self.method = method
        self.has_rounding_analysis = bound.rounding_slope is not None and is_ieee_float32()
        self.built = True  # it has no weights but those of its parts
        self.jit_compile = False  # the arithmetic of the proof is that of the operations as they stand

    def call(self, images):
        """Classifies and certifies."""
        embeddings = ops.cast(self.backbone(images, training=False), "float32")
        logits = self._logits(embeddings)
        class_ids = ops.cast(ops.argmax(logits, axis=-1), "int32")
        cluster_ids = self._nearest_own_cluster(embeddings, class_ids)
        is_winner = ops.one_hot(class_ids, self.head.num_classes, dtype="bool")
        outputs = {
            "class_ids": class_ids,
            "logits": logits,
            "probabilities": _with_winner_on_top(self.head.probabilities(logits), is_winner),
            "runner_up_class_ids": ops.argmax(ops.where(is_winner, -float("inf"), logits), axis=-1),
            "nearest_cluster": class_ids * self.head.clusters_per_class + cluster_ids,
            "embeddings": embeddings,
        }
        return {**outputs, **self._radii(images, embeddings, class_ids, cluster_ids)}

    def deployed_logits(self, images):
        """Distance logits of the deployed network, `[B, C]`: what an attack must attack."""
        return self._logits(ops.cast(self.backbone(images, training=False), "float32"))

    def _logits(self, embeddings):
        # By the bound that the certificate is made with, whatever the head trains with meanwhile.
        centers = ops.convert_to_tensor(self.head.centers)
        return certificates.distance_logits(embeddings, centers) / self.bound.value

    def _nearest_own_cluster(self, embeddings, class_ids):
        distances = self.head.squared_distances(embeddings)
        own = ops.take_along_axis(distances, class_ids[:, None, None], axis=1)[:, 0]
        return ops.cast(ops.argmin(own, axis=-1), "int32")

    def _radii(self, images, embeddings, class_ids, cluster_ids):
        wide = _widest_float()
        z, centers = ops.cast(embeddings, wide), ops.cast(ops.convert_to_tensor(self.head.centers), wide)
        # Any two centers that the head's float32 might take for coincident are taken for that here.
        coincident = 2.0 * certificates.COINCIDENT
        if self.method == "union":
            margin = certificates.union_margin(z, centers, class_ids, coincident)
        else:
            margin = certificates.nearest_margin(z, centers, class_ids, cluster_ids, coincident)
        radius = _finite(ops.maximum(margin, 0.0) / self.bound.value)
        radii = {"radius": ops.cast(radius, "float32")}
        if not self.has_rounding_analysis:
            return radii
        slope, intercept = self.bound.rounding_slope, self.bound.rounding_intercept
        axes = tuple(range(1, len(images.shape)))
        norm = _slightly_more(ops.sqrt(ops.sum(ops.square(ops.cast(images, wide)), axis=axes)))
        of_backbone = slope * (norm + (norm + radius)) + 2.0 * intercept

        num_classes, clusters, dim = centers.shape
        mean = ops.mean(centers, axis=(0, 1))
        # The head takes the mean in float32, which is off by as much as the sum of all centers makes it.
        of_mean = gamma(num_classes * clusters + 1, FLOAT32_ROUNDOFF) * ops.max(ops.norm(centers, axis=-1))
        spread = ops.max(ops.norm(centers - mean, axis=-1)) + 2.0 * of_mean
        here = _slightly_more(ops.norm(z - mean, axis=-1) + spread)
        there = _slightly_more(here + self.bound.value * radius + of_backbone)
        of_head = 8.0 * _head_error(there, dim, FLOAT32_ROUNDOFF, FLOAT32_UNDERFLOW)
        of_this = _head_error(here, dim, UNIT_ROUNDOFF if wide == "float64" else FLOAT32_ROUNDOFF, 0.0)
        # Logits below float32's normal range may be flushed to zero.
        of_division = self.bound.value * 2.0 * FLOAT32_UNDERFLOW
        slack = _slightly_more(of_backbone + of_head + of_this + of_division)

        largest = self.bound.peak_slope * (norm + radius) + self.bound.peak_intercept
        is_in_range = (largest < _LARGEST) & (there + ops.max(ops.abs(centers)) < _LARGEST)
        certified = ops.where(is_in_range, (margin - slack) / self.bound.value, 0.0)
        # The factor makes up for rounding to the nearest float32 number.
        certified = ops.cast(ops.maximum(_finite(certified), 0.0) * (1.0 - 2.0**-22), "float32")
        return {**radii, "certified_radius": certified}


def _with_winner_on_top(probabilities, is_winner):
    """Undoes ties that the softmax's rounding makes, so that the argmax of the probabilities is the class."""
    largest = ops.sum(ops.where(is_winner, probabilities, 0.0), axis=-1, keepdims=True)
    return ops.where(is_winner, probabilities, ops.minimum(probabilities, largest * (1.0 - 2.0**-23)))


def _head_error(size, dim, unit_roundoff, underflow):
    """Bound on the error of a computed `h_ab`, with `size` at least `||z - mean|| + max ||mu - mean||`.

    The normal is off by at most `gamma_(D+4)` in norm (its difference of centers is exact up to one rounding, whatever
    they have in common), the centered embedding and the midpoint by 2 roundings relative to `size`, the inner products
    by `gamma_D` of the norms of their factors: together less than `gamma_(3D+32) size`.
    """
    return gamma(3 * dim + 32, unit_roundoff) * size + 4.0 * dim * underflow * (1.0 + size)


def _slightly_more(value):
    """Makes up for the rounding of norms and sums of terms that are not negative."""
    wide = 2.0**-30 if _widest_float() == "float64" else 1e-3
    return value * (1.0 + wide)


def _widest_float():
    return "float32" if keras.backend.backend() == "jax" else "float64"


def _finite(radius):
    """0 in place of what is not a number: a radius that overflowed, or that of an image or weight that is none."""
    return ops.where(ops.isfinite(radius), radius, 0.0)


def as_arrays(outputs):
    """NumPy arrays of a dict of outputs, with class and cluster ids as int64."""
    arrays = {name: np.asarray(value) for name, value in outputs.items()}
    ids = ("class_ids", "runner_up_class_ids", "nearest_cluster")
    return {name: value.astype("int64") if name in ids else value for name, value in arrays.items()}
