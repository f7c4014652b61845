"""The head that classifies by the nearest learned cluster center."""

from typing import Any

import keras
import numpy as np
from keras import ops

from clustr_keras import certificates
from clustr_keras.integers import checked_integer
from clustr_keras.lipschitz import is_one_lipschitz_by_construction
from clustr_keras.lipschitz.fingerprint import FINGERPRINT_BYTES
from clustr_keras.lipschitz.spectral import float32_upward
from clustr_keras.types import Ints, Shape, Tensor


@keras.saving.register_keras_serializable(package="clustr_keras")
class ClusterHead(keras.layers.Layer):
    """Distance logits of embeddings with respect to K learned cluster centers for each of C classes.

    `logit_c = min_{b not in c} max_{a in c} h_ab(z) / L`, with `h_ab` the signed distance of the embedding `z` to the
    hyperplane that bisects the centers `a` and `b`. The argmax is the class of the nearest center, its logit is
    the union radius in input units (before rounding), all others are at most 0, and nothing saturates. So a plain
    Keras loss or metric needs `y_pred` alone.

    `lipschitz`, a non-trainable weight, is the proved bound L of the backbone. Infinity stands for "not known": then
    the winning logit is subtracted from all logits, which leaves argmax and softmax as they are and makes every radius
    0. Called on the output of a backbone that is 1-Lipschitz by construction, the head takes L = 1.

    The geometry is computed in float32 under any dtype policy.

    Args:
        num_classes: Integer C, at least 2.
        clusters_per_class: Integer K, at least 1.
        temperature: Float, factor of the logits in `probabilities`.
        centers_initializer: Initializer of the centers `[C, K, D]`; scaled random normal directions by default.

    Weights:
        centers: `[C, K, D]`, trainable.
        variance: `[C, K]`, not trainable, of the posterior; 1 until it is set.
        lipschitz: Scalar, not trainable.
        backbone_fingerprint: uint8 `[32]`, not trainable: the backbone's weights that `lipschitz` was proved for.

    Input shape:
        Embeddings `[B, D]`.

    Output shape:
        Distance logits `[B, C]`, float32.

    Raises:
        ValueError: If `num_classes` < 2, `clusters_per_class` < 1 or `temperature` <= 0.

    Example:

    >>> backbone = lipschitz_mlp((8, 8, 1))
    >>> model = keras.Model(backbone.input, ClusterHead(10)(backbone.output))

    Reference:
        Alfarra et al., Rethinking Clustering for Robustness, BMVC 2021.
    """

    def __init__(
        self,
        num_classes: int,
        clusters_per_class: int = 1,
        temperature: float = 8.0,
        centers_initializer: str | dict[str, Any] | keras.initializers.Initializer = "orthogonal",
        **kwargs: Any,
    ) -> None:
        # Without autocast: a policy of lower precision must not round the embeddings on their way in.
        super().__init__(autocast=False, **kwargs)
        self.num_classes = checked_integer("num_classes", num_classes, 2)
        self.clusters_per_class = checked_integer("clusters_per_class", clusters_per_class, 1)
        if not temperature > 0:
            raise ValueError(f"temperature must be positive; got {temperature!r}.")
        self.temperature = float(temperature)
        self.centers_initializer = keras.initializers.get(centers_initializer)
        self._serves_one_lipschitz = True

    def __call__(self, embeddings: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Applies the head; a graph that is 1-Lipschitz by construction is recognized as such."""
        logits = super().__call__(embeddings, *args, **kwargs)
        if hasattr(embeddings, "_keras_history"):
            inputs = keras.utils.get_source_inputs(embeddings)
            self._serves_one_lipschitz &= is_one_lipschitz_by_construction(keras.Model(inputs, embeddings))
            if not self.is_lipschitz_proved:
                self.set_lipschitz(1.0 if self._serves_one_lipschitz else float("inf"))
        return logits

    def build(self, input_shape: Shape) -> None:
        """Makes the weights."""
        if len(input_shape) != 2 or input_shape[-1] is None:
            raise ValueError(
                f"ClusterHead takes embeddings [B, D] with a known D; got shape {tuple(input_shape)}. "
                "Flatten or pool the backbone's output."
            )
        clusters = (self.num_classes, self.clusters_per_class)
        self.centers = self.add_weight(
            name="centers",
            shape=(*clusters, input_shape[-1]),
            initializer=self.centers_initializer,
            dtype="float32",
            autocast=False,
        )
        self.variance = self.add_weight(
            name="variance", shape=clusters, initializer="ones", trainable=False, dtype="float32", autocast=False
        )
        self.lipschitz = self.add_weight(
            name="lipschitz",
            shape=(),
            initializer=keras.initializers.Constant(float("inf")),
            trainable=False,
            dtype="float32",
            autocast=False,
        )
        self.backbone_fingerprint = self.add_weight(
            name="backbone_fingerprint",
            shape=(FINGERPRINT_BYTES,),
            initializer="zeros",
            trainable=False,
            dtype="uint8",
            autocast=False,
        )
        self.input_spec = keras.layers.InputSpec(ndim=2, axes={-1: input_shape[-1]})

    def call(self, embeddings: Tensor) -> Tensor:
        """Computes the distance logits."""
        logits = certificates.distance_logits(*self._geometry(embeddings))
        lipschitz = ops.convert_to_tensor(self.lipschitz)
        known = ops.isfinite(lipschitz)
        logits = logits / ops.where(known, lipschitz, 1.0)
        return logits - ops.where(known, 0.0, ops.max(logits, axis=-1, keepdims=True))

    def squared_distances(self, embeddings: Tensor) -> Tensor:
        """Squared distances `||z - mu||^2` to every center, `[B, C, K]`, float32."""
        return certificates.squared_distances(*self._geometry(embeddings))

    def nearest_cluster(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Class and cluster (`0..K-1`) of the nearest center, two int tensors `[B]`."""
        return certificates.nearest_cluster(*self._geometry(embeddings))

    def log_scores(self, embeddings: Tensor) -> Tensor:
        """Class scores in log space, `log_score_c = logsumexp_k(-||z - mu_ck||^2 / (2 s_ck^2))`.

        The logarithm of `paper_scores`. Every cluster votes. Finite, with a gradient of the size of the distances,
        however far the embedding is from all centers: what training and attacks take as logits.

        Args:
            embeddings: Floats `[B, D]`.

        Returns:
            float32 `[B, C]`, at most log K.
        """
        return ops.logsumexp(self._votes(embeddings), axis=-1)

    def paper_scores(self, embeddings: Tensor, nearest: int | None = None) -> Tensor:
        """Class scores as published, `score_c = sum_k exp(-||z - mu_ck||^2 / (2 s_ck^2))`.

        They saturate: far from all centers the scores and their gradients are 0, and an attack on them is blind. For
        comparisons with the published results only; `log_scores` has the same order without that.

        Args:
            embeddings: Floats `[B, D]`.
            nearest: Integer L: only the L clusters nearest by `d^2 / s^2` vote. All vote by default.

        Returns:
            float32 `[B, C]`, in `0..K`.

        Raises:
            ValueError: If `nearest` is not in `1..C*K`.
        """
        return ops.sum(ops.exp(self._votes(embeddings, nearest)), axis=-1)

    def log_posterior(self, embeddings: Tensor, nearest: int | None = None) -> Tensor:
        """Logarithm of the posterior, `log_score_c - logsumexp_j(log_score_j)`.

        Args:
            embeddings: Floats `[B, D]`.
            nearest: Integer L: only the L clusters nearest by `d^2 / s^2` vote, and a class without a vote gets
                `-inf`. All vote by default.

        Returns:
            float32 `[B, C]`.

        Raises:
            ValueError: If `nearest` is not in `1..C*K`.
        """
        return ops.log_softmax(ops.logsumexp(self._votes(embeddings, nearest), axis=-1), axis=-1)

    def posterior(self, embeddings: Tensor, nearest: int | None = None, scores: str = "log") -> Tensor:
        """Class posterior by the votes of the clusters, `p_c = score_c / sum_j score_j`.

        It is not what a certificate covers.

        Args:
            embeddings: Floats `[B, D]`.
            nearest: Integer L: only the L clusters nearest by `d^2 / s^2` vote, and a class without a vote gets 0.
                All vote by default.
            scores: `"log"` computes in log space and gives shares that sum to 1 at every distance. `"paper"` computes
                the published `p_c = score_c / max(sum_j score_j, 1e-12)`, which falls to 0 far from all centers.

        Returns:
            float32 `[B, C]`.

        Raises:
            ValueError: If `nearest` is not in `1..C*K` or `scores` is another word.
        """
        if scores == "log":
            return ops.exp(self.log_posterior(embeddings, nearest))
        if scores == "paper":
            votes = self.paper_scores(embeddings, nearest)
            return votes / ops.maximum(ops.sum(votes, axis=-1, keepdims=True), 1e-12)
        raise ValueError(f'scores must be "log" or "paper"; got {scores!r}.')

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax of distance logits times the temperature, `[B, C]`."""
        # The largest is subtracted first: the temperature may take them out of float32's range.
        lead = logits - ops.max(logits, axis=-1, keepdims=True)
        return ops.softmax(self.temperature * lead, axis=-1)

    @property
    def is_lipschitz_known(self) -> bool:
        """Whether `lipschitz` holds a bound."""
        return bool(np.isfinite(ops.convert_to_numpy(self.lipschitz)))

    @property
    def is_lipschitz_proved(self) -> bool:
        """Whether `lipschitz` was proved for particular weights, whose fingerprint the head holds."""
        return bool(np.any(ops.convert_to_numpy(self.backbone_fingerprint)))

    def set_lipschitz(self, bound: float, fingerprint: Ints | None = None) -> None:
        """Stores the backbone's Lipschitz bound and the fingerprint of the weights it was proved for.

        `ClustrClassifier` sees to it that the two go together. In a functional model of your own nothing watches the
        weights: set it anew when they change.

        Args:
            bound: Float, a proved bound, or infinity for "not known".
            fingerprint: uint8 array `[32]` from `lipschitz.fingerprint`, or `None` for "of no weights in particular".

        Raises:
            ValueError: If the bound is not positive.
        """
        if not bound > 0:
            raise ValueError(f"the Lipschitz bound must be a number > 0 or infinity; got {bound}.")
        self.lipschitz.assign(float32_upward(bound))
        self.backbone_fingerprint.assign(np.zeros(FINGERPRINT_BYTES, "uint8") if fingerprint is None else fingerprint)

    def compute_output_spec(self, embeddings: Tensor) -> keras.KerasTensor:
        """Returns the logits' shape, and float32 whatever the policy."""
        return keras.KerasTensor((embeddings.shape[0], self.num_classes), dtype="float32")

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "clusters_per_class": self.clusters_per_class,
            "temperature": self.temperature,
            "centers_initializer": keras.initializers.serialize(self.centers_initializer),
        }

    def _votes(self, embeddings, nearest=None):
        """`-||z - mu||^2 / (2 s^2)`, `[B, C, K]`; `-inf` for all but exactly `nearest` clusters of an example."""
        clusters = self.num_classes * self.clusters_per_class
        if nearest is not None and not 1 <= nearest <= clusters:
            raise ValueError(f"nearest must lie in 1..{clusters} (C * K); got {nearest}.")
        votes = -0.5 * self.squared_distances(embeddings) / self.variance
        if nearest is None or nearest == clusters:
            return votes
        # Places in the order of the distances, not a threshold: among equals, some vote and some do not.
        places = ops.argsort(ops.argsort(ops.reshape(-votes, (-1, clusters)), axis=-1), axis=-1)
        may_vote = ops.reshape(places < nearest, (-1, self.num_classes, self.clusters_per_class))
        return ops.where(may_vote, votes, -float("inf"))

    def _geometry(self, embeddings):
        return ops.cast(embeddings, "float32"), ops.convert_to_tensor(self.centers)
