"""What `ClustrClassifier` minimizes: a loss, on what it acts on, and the terms beside it."""

from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from clustr_keras.backend import num_replicas, of_all_replicas
from clustr_keras.consistency import ConsistencyTerm
from clustr_keras.losses import CenterMagnetLoss, MagnetLoss
from clustr_keras.types import Tensor

if TYPE_CHECKING:
    from clustr_keras.heads import ClusterHead
    from clustr_keras.objective_model import ObjectiveModel


class Objective:
    """Routes a batch to the loss and adds the terms that training alone has.

    Args:
        loss: Keras loss or its name. One with an attribute `acts_on` gets what that says in place of the logits:
            `"embeddings"` or `"squared_distances"`.
        consistency: `ConsistencyTerm` or `None`.
        xent_lambda: Float, weight of the cross-entropy on the class scores.
    """

    def __init__(self, loss: Any, consistency: ConsistencyTerm | None = None, xent_lambda: float = 0.0) -> None:
        if not xent_lambda >= 0:
            raise ValueError(f"xent_lambda must be at least 0; got {xent_lambda}.")
        if not isinstance(consistency, ConsistencyTerm | None):
            raise ValueError(f"consistency must be a term of clustr_keras.consistency or None; got {consistency!r}.")
        self.loss = loss
        self.consistency = consistency
        self.xent_lambda = float(xent_lambda)

    @property
    def acts_on_logits(self) -> bool:
        """Whether the loss is one that Keras itself can compute from `y_pred`."""
        return getattr(self.loss, "acts_on", "logits") == "logits"

    @property
    def needs_embeddings(self) -> bool:
        """Whether the logits alone are not enough in training."""
        return not self.acts_on_logits or self.consistency is not None or self.xent_lambda > 0

    @property
    def has_batch_clusters(self) -> bool:
        """Whether the loss is the magnet loss on batches of clusters."""
        return isinstance(self.loss, MagnetLoss)

    @property
    def is_sum(self) -> bool:
        """Whether the loss adds up over replicas. Keras divides any other by their number, as their means need it."""
        return getattr(self.loss, "reduction", None) == "sum"

    def loss_value(self, head: "ClusterHead", y: Tensor, embeddings: Tensor, sample_weight: Tensor | None) -> Tensor:
        """The loss where it does not act on logits; the center-based magnet loss for labels without clusters.

        From the whole batch, and a replica's share of it: what all replicas return adds up to the loss.
        """
        loss = self.loss
        if self.has_batch_clusters and not is_class_and_cluster(y):
            loss = CenterMagnetLoss(loss.alpha)
        if loss.acts_on == "embeddings":
            value = loss(y, embeddings, sample_weight)
        else:
            value = loss(class_ids(y), head.squared_distances(embeddings), sample_weight)
        return value / num_replicas() if self.is_sum else value

    def terms(
        self,
        model: "ObjectiveModel",
        images: Tensor,
        y: Tensor,
        embeddings: Tensor,
        sample_weight: Tensor | None,
        step: Tensor,
    ) -> Tensor | float:
        """The terms beside the loss, a scalar: 0 where there are none.

        From a replica's own examples, and its share of the mean over all.
        """
        values = []
        if self.consistency is not None:
            values.append(self.consistency(model, images, embeddings, step))
        if self.xent_lambda > 0:
            scores = model.head.log_scores(embeddings)
            if getattr(self.consistency, "scores", "log") == "paper":
                scores = model.head.paper_scores(embeddings)
            of_examples = ops.sparse_categorical_crossentropy(class_ids(y), scores, from_logits=True)
            values.append(self.xent_lambda * of_examples)
        if not values:
            return 0.0
        total = of_all_replicas(sum(values))
        return _MeanOfExamples()(total, total, of_all_replicas(sample_weight))


class _MeanOfExamples(keras.losses.Loss):
    """The mean of values `[B]`: as a loss, so that weights and replicas count as they do for any other."""

    def __init__(self) -> None:
        super().__init__(name="mean_of_examples", reduction="mean_with_sample_weight", dtype="float32")

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Returns the values."""
        del y_true
        return y_pred


def is_class_and_cluster(y: Tensor) -> bool:
    """Whether labels are pairs of class and cluster, `[B, 2]`."""
    return len(y.shape) == 2 and y.shape[-1] == 2


def class_ids(y: Tensor) -> Tensor:
    """Class ids `[B]` of labels with or without clusters."""
    return ops.cast(y[:, 0] if len(y.shape) == 2 else y, "int32")
