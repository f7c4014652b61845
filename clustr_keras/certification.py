"""The model that is deployed: images in, class and certified radius out, with float32 rounding accounted for."""

import math
from collections.abc import Mapping
from typing import Any, get_args

import keras
import numpy as np
from keras import ops

from clustr_keras.backend import of_any_size, wide_floats
from clustr_keras.certificates import soft_radius, soft_scores
from clustr_keras.certificates.floats import unit_roundoff, widest_float
from clustr_keras.certificates.soft import shared_variance
from clustr_keras.deployed_head import DeployedHead
from clustr_keras.heads import ClusterHead
from clustr_keras.lipschitz import LipschitzBound
from clustr_keras.lipschitz.arithmetic import is_ieee_float32
from clustr_keras.lipschitz.spectral import gamma
from clustr_keras.names import Method
from clustr_keras.types import Tensor

METHODS: tuple[str, ...] = get_args(Method)

# Where no number on the way is larger, no square and no sum of products leaves float32's range.
_LARGEST = 2.0**60

# The largest number, and the least positive one that is not subnormal.
_LARGEST_FLOAT32 = float(np.finfo("float32").max)
_LEAST_FLOAT32 = 2.0**-126


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
    `s_a - s_b > 4 E(z')`, so that the computed difference is positive: the largest computed score is one of class `c`,
    which is the class computed for `x'`. Its logit is not negative, by its comparison with the largest score those of
    other classes are not positive, and there they are kept from 0. `s` and `E` grow with the norm of their argument,
    and `||x'|| <= ||x|| + r` for an `r` that no radius exceeds: they are taken there (`r` is the margin without slack,
    for `E` the distance from `z` to the nearest rival center, both over L). Since the scores at `z` are off by `E` as
    well, `m(z)` is computed for 8 `E`, less its own rounding, and rounded downward to float32. Where a number might
    leave float32's range, nothing is certified.

    Args:
        backbone: `keras.Model` from images to embeddings, with plain weights (see `lipschitz.condense`).
        head: `ClusterHead`; its centers as they are now.
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

    predict_function: Any  # of Keras

    def __init__(
        self, backbone: keras.Model, head: ClusterHead, bound: LipschitzBound, method: str = "union", **kwargs: Any
    ) -> None:
        # In float32 under any global policy: a lower one would round the images before anything else.
        super().__init__(dtype="float32", **kwargs)
        if method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}; got {method!r}.")
        self.backbone = backbone
        self.bound = bound
        self.method = method
        self.head = head
        self.centers = ops.convert_to_numpy(head.centers)
        with wide_floats():
            self.deployed_head = DeployedHead(self.centers, method)
        if method == "soft":
            self.variance = shared_variance(ops.convert_to_numpy(head.variance))
        self.has_rounding_analysis = bound.rounding_slope is not None and method != "soft" and is_ieee_float32()
        self.built = True
        self.jit_compile = False  # the arithmetic of the proof is that of the operations as they stand

    def make_predict_function(self, force: bool = False) -> Any:
        """As Keras', traced once for batches of any size: TensorFlow would do it for the first size, and then again."""
        if self.predict_function is None or force:
            super().make_predict_function(force)
            if keras.backend.backend() == "tensorflow" and not self.run_eagerly:
                self.predict_function = of_any_size(self.predict_function)
        return self.predict_function

    def call(self, images: Tensor) -> dict[str, Tensor]:
        """Classifies and certifies."""
        embeddings = self._embed(images)
        with wide_floats():
            return self._certified(images, embeddings)

    def deployed_logits(self, images: Tensor) -> Tensor:
        """Distance logits of the deployed network, `[B, C]`: what an attack must attack."""
        embeddings = self._embed(images)
        with wide_floats():
            return self._logits(embeddings, self.deployed_head.scores(embeddings))

    def _certified(self, images, embeddings):
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
            probabilities = self.head.probabilities(logits)
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

    def _embed(self, images):
        return ops.cast(self.backbone(images, training=False), "float32")

    def _logits(self, embeddings, scores):
        if self.method == "soft":
            return ops.cast(soft_scores(*self._wide(embeddings), self.variance), "float32")
        # By the bound that the certificate is made with, whatever the head trains with meanwhile.
        logits = self.deployed_head.logits(scores) / self.bound.value
        logits = ops.cast(ops.clip(logits, -_LARGEST_FLOAT32, _LARGEST_FLOAT32), "float32")
        # Nearly 0 they may have been rounded to 0, or come from coincident centers: those of other classes stay below.
        winner = self.deployed_head.nearest_cluster(scores) // self.deployed_head.clusters
        is_winner = ops.one_hot(winner, self.deployed_head.num_classes, dtype="bool")
        return ops.where(is_winner, logits, ops.minimum(logits, -_LEAST_FLOAT32))

    def _wide(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        wide = widest_float()
        return ops.cast(embeddings, wide), ops.cast(ops.convert_to_tensor(self.centers), wide)

    def _radii(self, images, embeddings, scores, class_ids):
        if self.method == "soft":
            radius = soft_radius(*self._wide(embeddings), self.bound.value, self.variance)
            return {"radius": _as_float32(radius)}
        if not self.has_rounding_analysis:
            margin, _ = self.deployed_head.margins(scores, class_ids, ops.zeros_like(scores[:, 0]))
            return {"radius": self._as_radius(margin)}
        norm = _norm_bound(ops.cast(images, scores.dtype))
        of_scores, is_in_range = self._score_slack(norm, embeddings, scores, class_ids)
        margin, with_slack = self.deployed_head.margins(scores, class_ids, of_scores)
        of_backbone = self._backbone_slack(norm, ops.maximum(margin, with_slack) / self.bound.value)
        certified = _finite(ops.where(is_in_range, (with_slack - of_backbone) / self.bound.value, 0.0))
        # The factor makes up for rounding to the nearest float32 number.
        certified = _as_float32(ops.maximum(certified, 0.0) * (1.0 - 2.0**-22))
        return {"radius": self._as_radius(margin), "certified_radius": certified}

    def _as_radius(self, margin):
        return _as_float32(ops.maximum(margin, 0.0) / self.bound.value)

    def _backbone_slack(self, norm, reach):
        """What rounding may cost in the backbone, at an image and at any within `reach` of it, `[B]`."""
        slope, intercept = self.bound.rounding_slope, self.bound.rounding_intercept
        assert intercept is not None  # as there is a rounding analysis
        reach = _slightly_more(ops.maximum(reach, 0.0))
        return _slightly_more(slope * (norm + (norm + reach)) + 2.0 * intercept)

    def _score_slack(self, norm, embeddings, scores, class_ids):
        """What rounding may cost in a difference of scores, `[B]`, and whether no number leaves its range."""
        head = self.deployed_head
        here = _slightly_more(head.size(embeddings))
        reach = _slightly_more(head.distance_to_rivals(here, scores, class_ids) / self.bound.value)
        there = _slightly_more(here + self.bound.value * reach + self._backbone_slack(norm, reach))
        slack = 8.0 * head.error(there)  # 4 E at the neighbor, 4 E here
        largest = self.bound.peak_slope * (norm + reach) + self.bound.peak_intercept
        largest_center = float(np.max(np.abs(self.centers)))
        return _slightly_more(slack), (largest < _LARGEST) & (there + largest_center < _LARGEST)


def _with_winner_on_top(probabilities, is_winner):
    """Undoes ties that the softmax's rounding makes, so that the argmax of the probabilities is the class."""
    largest = ops.sum(ops.where(is_winner, probabilities, 0.0), axis=-1, keepdims=True)
    return ops.where(is_winner, probabilities, ops.minimum(probabilities, largest * (1.0 - 2.0**-23)))


def _slightly_more(value):
    """Makes up for the rounding of norms and sums of terms that are not negative."""
    wide = 2.0**-30 if widest_float() == "float64" else 1e-3
    return value * (1.0 + wide)


def _norm_bound(images):
    """Upper bound of the norm of images, `[B]`."""
    count = math.prod(images.shape[1:])
    norm = ops.sqrt(ops.sum(ops.square(images), axis=tuple(range(1, len(images.shape)))))
    # Sums round, and the squares of the smallest pixels are lost where float32 is all there is.
    error = gamma(count + 2, unit_roundoff(norm.dtype))
    return _slightly_more(norm * (1.0 + error) + math.sqrt(count) * 2.0**-62)


def _finite(radius):
    """0 in place of what is not a number: a radius that overflowed, or that of an image or weight that is none."""
    return ops.where(ops.isfinite(radius), radius, 0.0)


def _as_float32(radius):
    """A radius in float32: 0 where it is not a number, the largest number where it is larger."""
    return ops.cast(ops.minimum(ops.where(ops.isnan(radius), 0.0, radius), _LARGEST_FLOAT32), "float32")


def as_arrays(outputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """NumPy arrays of a dict of outputs, with class and cluster ids as int64."""
    arrays = {name: np.asarray(value) for name, value in outputs.items()}
    ids = ("class_ids", "runner_up_class_ids", "nearest_cluster")
    return {name: value.astype("int64") if name in ids else value for name, value in arrays.items()}
