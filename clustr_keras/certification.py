"""The model that is deployed: images in, class and certified radius out, with float32 rounding accounted for."""

import keras
import numpy as np
from keras import ops

from clustr_keras import certificates
from clustr_keras.deployed_head import DeployedHead
from clustr_keras.lipschitz.arithmetic import is_ieee_float32
from clustr_keras.lipschitz.bounds import FLOAT32_UNDERFLOW

METHODS = ("nearest", "union", "exact", "soft")

# Where no number on the way is larger, no square and no sum of products leaves float32's range.
_LARGEST = 2.0**60


class Certifier(keras.Model):
    """Classifies images and proves how far each may move, for one frozen backbone.

    **Theorem.** Let the backbone be evaluated in IEEE float32 (any order of summation, with or without fused
    multiply-add, subnormals kept or flushed; no TF32, no reduced precision, no Winograd or FFT), and the head as here
    in IEEE float64 (float32 where the backend has no more). Then for every float32 image `x'` with
    `||x' - x||_2 < certified_radius(x)` the class computed for `x'` is that for `x`, and so is the largest logit's.

    **Proof.** Let `s(x)` bound the backbone's rounding at `x` (`LipschitzBound`), `z` be the computed embedding, `E(z)`
    a bound on the error of a computed score (`DeployedHead`), and `m(z)` the distance from `z` to where some rival `b`
    has `s_a - s_b <= 4 E` for all `a` of the winning class `c`, by one hyperplane each (`nearest`, `union`) or by their
    intersection (`exact`), with `E` at its largest. The computed embeddings of `x'` and `x` differ by at most
    `L ||x' - x|| + s(x') + s(x)`. If that is less than `m(z)`, then for each rival `b` some `a` of class `c` has
    `s_a - s_b > 4 E(z')`, so that the computed difference exceeds `2 E`: the largest computed score is one of class
    `c`. A logit is the smallest, over `b`, of the largest such difference, over `a`, times a positive number: that of
    `c` is positive, and that of any other class is not, by its comparison with the largest score. Neither the division
    by L that follows nor the rounding to float32 closes such a gap. `s` and `E` grow with the norm of their argument,
    and `||x'|| <= ||x|| + r` for an `r` that no radius exceeds: they are taken there (`r` is the margin without slack,
    for `E` the distance from `z` to the nearest rival center, both over L). Since the scores at `z` are off by `E` as
    well, `m(z)` is computed for 8 `E`, less its own rounding, and rounded downward to float32. Where a number might
    leave float32's range, nothing is certified.

    Args:
        backbone: `keras.Model` from images to embeddings, with plain weights (see `lipschitz.condense`).
        head: `ClusterHead`; its centers and temperature as they are now.
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
        self.bound = bound
        self.method = method
        self.temperature = head.temperature
        self.centers = ops.convert_to_numpy(head.centers)
        self.deployed_head = DeployedHead(self.centers, method)
        if method == "soft":
            self.variance = certificates.shared_variance(ops.convert_to_numpy(head.variance))
        self.has_rounding_analysis = bound.rounding_slope is not None and method != "soft" and is_ieee_float32()
        self.built = True
        self.jit_compile = False  # the arithmetic of the proof is that of the operations as they stand

    def call(self, images):
        """Classifies and certifies."""
        embeddings = self._embed(images)
        scores = self.deployed_head.scores(embeddings)
        logits = self._logits(embeddings, scores)
        nearest_cluster = self.deployed_head.nearest_cluster(scores)
        if self.method == "soft":
            class_ids = ops.cast(ops.argmax(logits, axis=-1), "int32")
            own = self.deployed_head.owners == class_ids[:, None]
            nearest_cluster = self.deployed_head.nearest_cluster(ops.where(own, scores, -float("inf")))
            probabilities = ops.softmax(logits, axis=-1)
        else:
            class_ids = nearest_cluster // self.deployed_head.clusters
            probabilities = ops.softmax(self.temperature * logits, axis=-1)
        is_winner = ops.one_hot(class_ids, self.deployed_head.num_classes, dtype="bool")
        return {
            "class_ids": class_ids,
            "logits": logits,
            "probabilities": _with_winner_on_top(probabilities, is_winner),
            "runner_up_class_ids": ops.argmax(ops.where(is_winner, -float("inf"), logits), axis=-1),
            "nearest_cluster": nearest_cluster,
            "embeddings": embeddings,
            **self._radii(images, embeddings, scores, class_ids),
        }

    def deployed_logits(self, images):
        """Distance logits of the deployed network, `[B, C]`: what an attack must attack."""
        embeddings = self._embed(images)
        return self._logits(embeddings, self.deployed_head.scores(embeddings))

    def _embed(self, images):
        return ops.cast(self.backbone(images, training=False), "float32")

    def _logits(self, embeddings, scores):
        if self.method == "soft":
            logits = certificates.soft_scores(*self._wide(embeddings), self.variance)
        else:
            # By the bound that the certificate is made with, whatever the head trains with meanwhile.
            logits = self.deployed_head.logits(scores) / self.bound.value
        return ops.cast(logits, "float32")

    def _wide(self, embeddings):
        wide = certificates.widest_float()
        return ops.cast(embeddings, wide), ops.cast(ops.convert_to_tensor(self.centers), wide)

    def _radii(self, images, embeddings, scores, class_ids):
        if self.method == "soft":
            radius = certificates.soft_radius(*self._wide(embeddings), self.bound.value, self.variance)
            return {"radius": ops.cast(_finite(radius), "float32")}
        if not self.has_rounding_analysis:
            margin, _ = self.deployed_head.margins(scores, class_ids, ops.zeros_like(scores[:, 0]))
            return {"radius": self._as_radius(margin)}
        axes = tuple(range(1, len(images.shape)))
        norm = _slightly_more(ops.sqrt(ops.sum(ops.square(ops.cast(images, scores.dtype)), axis=axes)))
        of_scores, is_in_range = self._score_slack(norm, embeddings, scores, class_ids)
        margin, with_slack = self.deployed_head.margins(scores, class_ids, of_scores)
        of_backbone = self._backbone_slack(norm, ops.maximum(margin, with_slack) / self.bound.value)
        certified = _finite(ops.where(is_in_range, (with_slack - of_backbone) / self.bound.value, 0.0))
        # The factor makes up for rounding to the nearest float32 number.
        certified = ops.cast(ops.maximum(certified, 0.0) * (1.0 - 2.0**-22), "float32")
        return {"radius": self._as_radius(margin), "certified_radius": certified}

    def _as_radius(self, margin):
        return ops.cast(_finite(ops.maximum(margin, 0.0) / self.bound.value), "float32")

    def _backbone_slack(self, norm, reach):
        """What rounding may cost in the backbone, at an image and at any within `reach` of it, `[B]`."""
        slope, intercept = self.bound.rounding_slope, self.bound.rounding_intercept
        reach = _slightly_more(ops.maximum(reach, 0.0))
        # The last term since logits below the normal range may be flushed to zero.
        underflow = self.bound.value * 2.0 * FLOAT32_UNDERFLOW
        return _slightly_more(slope * (norm + (norm + reach)) + 2.0 * intercept + underflow)

    def _score_slack(self, norm, embeddings, scores, class_ids):
        """What rounding may cost in a difference of scores, `[B]`, and whether no number leaves its range."""
        head = self.deployed_head
        here = _slightly_more(head.size(embeddings))
        reach = _slightly_more(head.distance_to_rivals(here, scores, class_ids) / self.bound.value)
        there = _slightly_more(here + self.bound.value * reach + self._backbone_slack(norm, reach))
        # 4 E at the neighbor, 4 E here, and what may be flushed to zero.
        slack = 8.0 * head.error(there) + 44.0 * head.dim * FLOAT32_UNDERFLOW * (1.0 + there) ** 2
        largest = self.bound.peak_slope * (norm + reach) + self.bound.peak_intercept
        largest_center = float(np.max(np.abs(self.centers)))
        return _slightly_more(slack), (largest < _LARGEST) & (there + largest_center < _LARGEST)


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
