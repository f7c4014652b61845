"""The model that is deployed: images in, class and certified radius out, with float32 rounding accounted for."""

import keras
import numpy as np
from keras import ops

from clustr_keras import certificates
from clustr_keras.lipschitz.arithmetic import is_ieee_float32
from clustr_keras.lipschitz.bounds import FLOAT32_UNDERFLOW
from clustr_keras.lipschitz.spectral import gamma

METHODS = ("nearest", "union", "exact", "soft")

# Where no number on the way is larger, no square and no sum of products leaves float32's range.
_LARGEST = 2.0**60


class Certifier(keras.Model):
    """Classifies images and proves how far each may move, for one frozen backbone.

    **Theorem.** Let the backbone be evaluated in IEEE float32 (any order of summation, with or without fused
    multiply-add, subnormals kept or flushed; no TF32, no reduced precision, no Winograd or FFT), and the head as here
    in IEEE float64 (float32 where the backend has no more). Then for every float32 image `x'` with
    `||x' - x||_2 < certified_radius(x)` the argmax of the distance logits computed for `x'` is that for `x`.

    **Proof.** Let `s(x)` bound the backbone's rounding at `x` (`LipschitzBound`), `z` be the computed embedding, `e(z)`
    a bound on the head's error in any one `h_ab`, and `m(z)` a lower bound of the distance from `z` to where some rival
    `b` has `h_ab <= 8 e` for all `a` of the winning class `c`: by one hyperplane each (`nearest`, `union`) or by their
    intersection (`exact`), with `e` at its largest. The computed embeddings of `x'` and `x` differ by at most
    `L ||x' - x|| + s(x') + s(x)`. If that is less than `m(z)`, then for each rival `b` some `a` of class `c` has
    `h_ab(z') > 8 e(z')`. The head picks a deciding pair by computed values and computes it once more, so each logit is
    off by at most `3 e(z')`: that of `c` exceeds `5 e(z')`, while that of any other class, at most 0 in exact
    arithmetic, stays below `3 e(z')`. Neither the division by L that follows nor the rounding to float32 closes such a
    gap. `s` and `e` grow with the norm of their argument, and `||x'|| <= ||x|| + r` for an `r` that no radius exceeds
    (for `exact` the distance from `z` to the nearest rival center over L): they are taken there. What is computed here
    has its own rounding subtracted, another `3 e`, and is rounded downward to float32. Where a number on the way might
    leave float32's range, nothing is certified.

    Args:
        backbone: `keras.Model` from images to embeddings, with plain weights (see `lipschitz.condense`).
        head: `ClusterHead`.
        bound: `LipschitzBound` of that backbone.
        method: `"nearest"`, `"union"`, `"exact"` or `"soft"`, see `clustr_keras.certificates`. With `"soft"` the class
            is that of the largest soft score, `logits` are those scores, and there is no certified radius, since the
            rounding of exponentials has no analysis.

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
        if method == "soft":
            self.variance = certificates.shared_variance(ops.convert_to_numpy(head.variance))
        self.has_rounding_analysis = bound.rounding_slope is not None and method != "soft" and is_ieee_float32()
        self.built = True  # it has no weights but those of its parts
        self.jit_compile = False  # the arithmetic of the proof is that of the operations as they stand

    def call(self, images):
        """Classifies and certifies."""
        embeddings = ops.cast(self.backbone(images, training=False), "float32")
        z, centers = self._geometry(embeddings)
        margins = self._margins(z, centers)
        logits = self._as_logits(margins)
        class_ids = ops.cast(ops.argmax(logits, axis=-1), "int32")
        is_winner = ops.one_hot(class_ids, self.head.num_classes, dtype="bool")
        distances = certificates.squared_distances(z, centers)
        outputs = {
            "class_ids": class_ids,
            "logits": logits,
            "probabilities": _with_winner_on_top(self._probabilities(logits), is_winner),
            "runner_up_class_ids": ops.argmax(ops.where(is_winner, -float("inf"), logits), axis=-1),
            "nearest_cluster": self._nearest_cluster(distances, class_ids),
            "embeddings": embeddings,
        }
        if self.method == "soft":
            radius = certificates.soft_radius(z, centers, self.bound.value, self.variance)
            return {**outputs, "radius": ops.cast(_finite(radius), "float32")}
        union = ops.max(margins, axis=-1)

        def margin(slack):
            if self.method == "nearest":
                return certificates.nearest_margin(z, centers, class_ids, slack)
            if self.method == "exact":
                return certificates.exact_margin(z, centers, class_ids, slack)
            return union - slack

        radius = ops.maximum(margin(0.0), 0.0) / self.bound.value
        outputs["radius"] = ops.cast(_finite(radius), "float32")
        if not self.has_rounding_analysis:
            return outputs
        # No union or nearest radius exceeds what the union margin gives.
        of_union = self._certified(images, z, centers, ops.maximum(union, 0.0), lambda slack: union - slack)
        certified = of_union
        if self.method == "nearest":
            certified = self._certified(images, z, centers, ops.maximum(union, 0.0), margin)
        if self.method == "exact":
            # No radius exceeds the way to the nearest rival center. That costs some slack: both proofs hold.
            rival_distances = ops.where(is_winner[:, :, None], float("inf"), distances)
            reach = ops.sqrt(ops.min(rival_distances, axis=(1, 2)))
            certified = ops.maximum(of_union, self._certified(images, z, centers, reach, margin))
        # The factor makes up for rounding to the nearest float32 number.
        outputs["certified_radius"] = ops.cast(certified * (1.0 - 2.0**-22), "float32")
        return outputs

    def deployed_logits(self, images):
        """Distance logits of the deployed network, `[B, C]`: what an attack must attack."""
        return self._as_logits(self._margins(*self._geometry(self.backbone(images, training=False))))

    def _geometry(self, embeddings):
        # From float32 embeddings and centers on, in the widest type there is: what follows costs next to nothing.
        wide = certificates.widest_float()
        embeddings = ops.cast(ops.cast(embeddings, "float32"), wide)
        return embeddings, ops.cast(ops.convert_to_tensor(self.head.centers), wide)

    def _margins(self, z, centers):
        """Union margin of every class, or its soft score, `[B, C]`, in embedding units."""
        if self.method == "soft":
            return certificates.soft_scores(z, centers, self.variance)
        return certificates.distance_logits(z, centers)

    def _as_logits(self, margins):
        # By the bound that the certificate is made with, whatever the head trains with meanwhile.
        return ops.cast(margins if self.method == "soft" else margins / self.bound.value, "float32")

    def _probabilities(self, logits):
        return ops.softmax(logits, axis=-1) if self.method == "soft" else self.head.probabilities(logits)

    def _nearest_cluster(self, distances, class_ids):
        own = ops.take_along_axis(distances, class_ids[:, None, None], axis=1)[:, 0]
        return class_ids * self.head.clusters_per_class + ops.cast(ops.argmin(own, axis=-1), "int32")

    def _certified(self, images, z, centers, reach, margin):
        of_backbone, of_head, is_in_range = self._slack(images, z, centers, reach)
        certified = (margin(of_head) - of_backbone) / self.bound.value
        return ops.maximum(_finite(ops.where(is_in_range, certified, 0.0)), 0.0)

    def _slack(self, images, z, centers, reach):
        """What rounding may cost in the backbone and in the head, `[B]`, and whether no number leaves its range.

        Both in embedding units, as `reach` is, which no margin exceeds.
        """
        num_classes, clusters, dim = centers.shape
        roundoff = certificates.unit_roundoff(z.dtype)
        reach = _slightly_more(reach / self.bound.value)
        slope, intercept = self.bound.rounding_slope, self.bound.rounding_intercept
        axes = tuple(range(1, len(images.shape)))
        norm = _slightly_more(ops.sqrt(ops.sum(ops.square(ops.cast(images, z.dtype)), axis=axes)))
        # At the image and at its neighbor; the last term since logits below the normal range may be flushed to zero.
        of_backbone = slope * (norm + (norm + reach)) + 2.0 * intercept + self.bound.value * 2.0 * FLOAT32_UNDERFLOW

        mean = ops.mean(centers, axis=(0, 1))
        # The computed mean, which the geometry is relative to, is off by as much as the sum of all centers makes it.
        of_mean = gamma(num_classes * clusters + 1, roundoff) * ops.max(ops.norm(centers, axis=-1))
        spread = ops.max(ops.norm(centers - mean, axis=-1)) + 2.0 * of_mean
        here = _slightly_more(ops.norm(z - mean, axis=-1) + spread)
        there = _slightly_more(here + self.bound.value * reach + of_backbone)
        # 8 e at the neighbor, and 3 e for what is computed here.
        of_head = 11.0 * certificates.signed_distance_error(there, dim, roundoff)
        of_head = of_head + 44.0 * dim * FLOAT32_UNDERFLOW * (1.0 + there)

        largest = self.bound.peak_slope * (norm + reach) + self.bound.peak_intercept
        is_in_range = (largest < _LARGEST) & (there + ops.max(ops.abs(centers)) < _LARGEST)
        return _slightly_more(of_backbone), _slightly_more(of_head), is_in_range


def _with_winner_on_top(probabilities, is_winner):
    """Undoes ties that the softmax's rounding makes, so that the argmax of the probabilities is the class."""
    largest = ops.sum(ops.where(is_winner, probabilities, 0.0), axis=-1, keepdims=True)
    return ops.where(is_winner, probabilities, ops.minimum(probabilities, largest * (1.0 - 2.0**-23)))


def _slightly_more(value):
    """Makes up for the rounding of norms and sums of terms that are not negative."""
    wide = 2.0**-30 if certificates.widest_float() == "float64" else 1e-3
    return value * (1.0 + wide)


def _finite(radius):
    """0 in place of what is not a number: a radius that overflowed, or that of an image or weight that is none."""
    return ops.where(ops.isfinite(radius), radius, 0.0)


def as_arrays(outputs):
    """NumPy arrays of a dict of outputs, with class and cluster ids as int64."""
    arrays = {name: np.asarray(value) for name, value in outputs.items()}
    ids = ("class_ids", "runner_up_class_ids", "nearest_cluster")
    return {name: value.astype("int64") if name in ids else value for name, value in arrays.items()}
