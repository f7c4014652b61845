"""The training steps of a classifier, which minimize an `Objective`."""

import contextlib
import contextvars
from typing import Any

import keras

from clustr_keras.backend import of_all_replicas, strategy_scope
from clustr_keras.consistency import FreeAdversarialTraining
from clustr_keras.heads import ClusterHead
from clustr_keras.objective import Objective, class_ids, is_class_and_cluster
from clustr_keras.sharing_model import SharingModel
from clustr_keras.types import Tensor

# The model whose step is being made and needs embeddings beside its logits. Replicas have threads of their own.
_in_step: contextvars.ContextVar["ObjectiveModel | None"] = contextvars.ContextVar("in_step", default=None)
# The loss of the step that this thread makes. An attribute would be another replica's after they have met.
_loss_of_step: contextvars.ContextVar[Tensor] = contextvars.ContextVar("loss_of_step", default=None)


class ObjectiveModel(SharingModel):
    """A model of a backbone and a head whose steps compute an `Objective` from logits and embeddings of one pass.

    Attributes:
        backbone: `keras.Model` from images to embeddings.
        head: `ClusterHead`.
        training_step: int32 variable, the number of steps so far.
        example_losses: Variable with the magnet losses of the last batch, or `None`.
    """

    backbone: keras.Model
    head: ClusterHead
    training_step: keras.Variable
    example_losses: keras.Variable | None
    _objective: Objective
    _free: FreeAdversarialTraining | None

    def train_step(self, *args: Any) -> dict[str, Tensor]:
        """Makes one training step; with `free`, one for each replay."""
        with self._giving_embeddings(self._objective.needs_embeddings or self._free is not None):
            if self._free is None:
                return super().train_step(*args)
            images, y, sample_weight = keras.utils.unpack_x_y_sample_weight(*args)
            return self._free.train_step(
                images,
                step=lambda images: super(ObjectiveModel, self).train_step((images, y, sample_weight)),
                loss=lambda: self.optimizer.scale_loss(_loss_of_step.get()),
            )

    def test_step(self, *args: Any) -> dict[str, Tensor]:
        """Makes one step of an evaluation."""
        with self._giving_embeddings(not self._objective.acts_on_logits):
            return super().test_step(*args)

    def compute_loss(
        self,
        x: Tensor | None = None,
        y: Tensor | None = None,
        y_pred: Tensor | dict[str, Tensor] | None = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        """Computes the loss, and in training the terms beside it."""
        loss = self._step_loss(x, y, y_pred, sample_weight, training)
        if training:
            self.training_step.assign_add(1)
        if self._free is not None:
            _loss_of_step.set(loss)
        return loss

    def compute_metrics(
        self, x: Tensor, y: Tensor, y_pred: Tensor | dict[str, Tensor], sample_weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Updates the metrics, which are about the logits."""
        if isinstance(y_pred, dict):
            y, y_pred = class_ids(y), y_pred["logits"]
        elif not self._objective.acts_on_logits:
            y = class_ids(y)  # outside of a step, where Keras finds out about shapes
        return super().compute_metrics(x, y, y_pred, sample_weight)

    @property
    def _gives_embeddings(self):
        """Whether a step is being made that needs embeddings beside the logits."""
        return _in_step.get() is self

    @contextlib.contextmanager
    def _giving_embeddings(self, gives):
        token = _in_step.set(self if gives else None)
        try:
            yield
        finally:
            _in_step.reset(token)

    def _step_loss(self, x, y, y_pred, sample_weight, training):
        objective = self._objective
        if not isinstance(y_pred, dict):
            if objective.acts_on_logits and not (training and objective.needs_embeddings):
                return self._loss_of_logits(x, y, y_pred, sample_weight, training)
            # Outside of a step, where Keras finds out about shapes for example.
            y_pred = {"logits": y_pred, "embeddings": self.backbone(x, training=training)}
        if objective.acts_on_logits:
            loss = self._loss_of_logits(x, class_ids(y), y_pred["logits"], sample_weight, training)
        else:
            loss = self._loss_of_embeddings(y, y_pred["embeddings"], sample_weight, training)
        if training:
            loss = loss + objective.terms(self, x, y, y_pred["embeddings"], sample_weight, self.training_step)
        return loss

    def _loss_of_logits(self, x, y, logits, sample_weight, training):
        """Keras' loss of the whole batch: shares of a batch need not be equal, and their means are not its mean."""
        if not self._objective.is_sum:
            y, logits, sample_weight = map(of_all_replicas, (y, logits, sample_weight))
        return super().compute_loss(x, y, logits, sample_weight, training)

    def _loss_of_embeddings(self, y, embeddings, sample_weight, training):
        """The loss of the whole batch, whose examples may depend on each other."""
        objective = self._objective
        y, embeddings, sample_weight = map(of_all_replicas, (y, embeddings, sample_weight))
        loss = objective.loss_value(self.head, y, embeddings, sample_weight)
        if training and self.example_losses is not None and objective.has_batch_clusters and is_class_and_cluster(y):
            self.example_losses.assign(keras.ops.stop_gradient(objective.loss.call(y, embeddings)))
        return sum(map(self._aggregate_additional_loss, self.losses), loss)

    def _make_example_losses(self, batch_size):
        """The variable that the magnet losses of a batch are left in, for the sampler."""
        if self.example_losses is None or self.example_losses.shape != (batch_size,):
            with strategy_scope(self):
                self.example_losses = keras.Variable(
                    keras.ops.zeros((batch_size,)),
                    trainable=False,
                    name="example_losses",
                    aggregation="only_first_replica",
                )
            self.make_train_function(force=True)

    def _build_optimizer(self):
        """Makes the optimizer's variables: made within a step of TensorFlow's, they would have it traced twice."""
        if not self.compiled or self.optimizer.built:
            return
        with strategy_scope(self):
            self.optimizer.build(self.trainable_variables)
