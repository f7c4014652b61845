"""The classifier: a backbone, a head of cluster centers, and certificates."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, Self

import keras
import numpy as np

from clustr_keras.backend import require_one_process, synchronized_normalization
from clustr_keras.certificate import Certificate
from clustr_keras.certification import METHODS, Certifier, as_arrays
from clustr_keras.consistency import ConsistencyTerm, FreeAdversarialTraining
from clustr_keras.data.batch_adapter import BatchAdapter
from clustr_keras.data.batches import ImageBatches
from clustr_keras.data.checks import check_images
from clustr_keras.fit_checks import check_examples, check_fit_data
from clustr_keras.heads import ClusterHead
from clustr_keras.lipschitz import (
    UnknownBoundError,
    fingerprint,
    is_one_lipschitz_by_construction,
    orthogonal_optimizer,
)
from clustr_keras.losses import CertifiedMarginLoss
from clustr_keras.objective import Objective
from clustr_keras.objective_model import ObjectiveModel
from clustr_keras.proof import Proof
from clustr_keras.types import ArrayLike, Floats, Tensor


@keras.saving.register_keras_serializable(package="clustr_keras")
class ClustrClassifier(ObjectiveModel):
    """Image classifier that decides by the nearest cluster center and proves its radii.

    `fit`, `evaluate` and `predict` work on the distance logits; `embed` and `certify` add the rest. Images are floats
    in [0, 1]; labels are class ids.

    Args:
        backbone: Built `keras.Model` from images to embeddings. One that is 1-Lipschitz by construction (see
            `clustr_keras.backbones`) trains towards large radii; any other whose operations `lipschitz.bound` knows
            can be certified.
        num_classes: Integer C, at least 2.
        clusters_per_class: Integer K, at least 1.
        class_names: C names; the class ids by default.
        temperature: Float, factor of the logits in the probabilities, and the loss's default.
        head_trainable: Boolean, whether the gradient moves the centers; `head.trainable` changes it later.

    Attributes:
        head: The `ClusterHead`.

    Input shape:
        Images `[B, H, W, C]` in [0, 1].

    Output shape:
        Distance logits `[B, num_classes]`.

    Raises:
        ValueError: If the backbone is not built or does not give embeddings `[B, D]`, or for `num_classes` < 2,
            `clusters_per_class` < 1, or a wrong number of names.

    Example:

    >>> model = ClustrClassifier(lipschitz_mlp((8, 8, 1)), num_classes=10)
    >>> model.compile()
    >>> model.fit(x_train, y_train, epochs=20)
    >>> model.certify(x_test).certified_radius

    Reference:
        Alfarra et al., Rethinking Clustering for Robustness, BMVC 2021.
    """

    _proof: Proof | None

    def __init__(
        self,
        backbone: keras.Model,
        num_classes: int,
        clusters_per_class: int = 1,
        class_names: Sequence[str] | None = None,
        temperature: float = 8.0,
        head_trainable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(backbone, keras.Model) or not backbone.built:
            raise ValueError(f"backbone must be a built keras.Model; got {backbone!r}. Build it from keras.Input.")
        self.backbone = backbone
        self.head = ClusterHead(
            num_classes, clusters_per_class, temperature=temperature, trainable=head_trainable, name="head"
        )
        self.num_classes = self.head.num_classes
        self.clusters_per_class = self.head.clusters_per_class
        self.class_names = [str(name) for name in class_names or range(self.num_classes)]
        if len(self.class_names) != self.num_classes:
            raise ValueError(f"expected {self.num_classes} class names; got {len(self.class_names)}.")
        self.head.build(backbone.output_shape)
        self.built = True
        self.training_step = self.add_weight(
            name="training_step", shape=(), dtype="int32", trainable=False, aggregation="only_first_replica"
        )
        self.example_losses = None
        self._is_fitting = False
        self._objective, self._free = Objective(None), None
        self._forget_bound()

    def call(self, images: Tensor, training: bool | None = None) -> Tensor | dict[str, Tensor]:
        """Computes the distance logits."""
        embeddings = self.backbone(images, training=training)
        logits = self.head(embeddings)
        # A step needs both from one pass: a second one costs a third more, and updates batch normalization twice.
        return {"logits": logits, "embeddings": embeddings} if self._gives_embeddings else logits

    def compile(
        self,
        optimizer: str | dict[str, Any] | keras.optimizers.Optimizer | None = None,
        loss: str | keras.losses.Loss | Callable[[Tensor, Tensor], Tensor] | None = None,
        loss_weights: Any = None,
        metrics: Sequence[Any] | None = ("accuracy",),
        consistency: ConsistencyTerm | None = None,
        xent_lambda: float = 0.0,
        free: FreeAdversarialTraining | None = None,
        **kwargs: Any,
    ) -> None:
        """Configures training as `keras.Model.compile` does.

        Args:
            optimizer: As for `keras.Model.compile`; by default `lipschitz.orthogonal_optimizer()` for a backbone that
                is 1-Lipschitz by construction, and Adam for any other.
            loss: Any Keras loss of the distance logits; `MagnetLoss` or `CenterMagnetLoss`, which act on embeddings;
                by default a `CertifiedMarginLoss`. Where labels come without clusters `MagnetLoss` takes the head's
                centers in the place of batch means.
            loss_weights: As for `keras.Model.compile`.
            metrics: As for `keras.Model.compile`, of the distance logits.
            consistency: A term of `clustr_keras.consistency` that is added to the loss, for example `QTRADES()`.
            xent_lambda: Float, weight of the cross-entropy on the head's class scores, in log space unless the
                consistency term takes the published ones.
            free: `FreeAdversarialTraining`, or `None`.
            **kwargs: As for `keras.Model.compile`.

        Raises:
            ValueError: If `xent_lambda` is negative, or `consistency` or `free` is something else.
        """
        if optimizer is None:
            optimizer = orthogonal_optimizer() if is_one_lipschitz_by_construction(self.backbone) else "adam"
        if loss is None:
            loss = CertifiedMarginLoss(temperature=self.head.temperature)
        if isinstance(loss, CertifiedMarginLoss):
            loss.step = self.training_step  # of its schedules
        if isinstance(metrics, tuple | list):
            # Keras would guess the kind of accuracy from labels that may hold clusters as well.
            by_name = {"accuracy": keras.metrics.SparseCategoricalAccuracy}
            metrics = [by_name[m](name=m) if isinstance(m, str) and m in by_name else m for m in metrics]
        self._objective, self._free = Objective(loss, consistency, xent_lambda), free
        if not isinstance(free, FreeAdversarialTraining | None):
            raise ValueError(f"free must be FreeAdversarialTraining or None; got {free!r}.")
        if free is not None:
            free.build(self.backbone.input_shape[1:])
        super().compile(optimizer=optimizer, loss=loss, loss_weights=loss_weights, metrics=metrics, **kwargs)
        self._compile_config.config.update(consistency=consistency, xent_lambda=xent_lambda, free=free)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a loaded model as it was when it was saved."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(
        self,
        x: Any = None,
        y: Tensor | ArrayLike | None = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains as `keras.Model.fit` does, after a check of the data.

        Arrays are checked whole; of any other data set its first batch is. The batches of a `PyDataset` are taken in
        their own order unless `shuffle=True` is given.

        A model made under a `tf.distribute.MirroredStrategy` trains as on one device: losses are those of the whole
        batch, and batch normalization takes its statistics over all of it. A batch must leave no device without an
        example. Where the sizes are known before training, which are those of arrays, of a `PyDataset` and of batches
        of a static size, `fit` refuses other batches; of a `tf.data.Dataset` it leaves them out, and prints that.

        Raises:
            ValueError: Before training, if the data is empty, an image leaves [0, 1] or has another shape than the
                backbone's input, a label leaves `0..C-1`, an embedding is not finite, or devices cannot share the
                batches.
        """
        if self._objective.has_batch_clusters and hasattr(x, "add_losses"):
            if kwargs.get("class_weight") is not None:
                raise ValueError("MagnetBatches carry weights of their own; class_weight has no effect on them.")
            self._make_example_losses(x.batch_size)
        check_fit_data(self, x, y, batch_size, validation_split if validation_data is None else 0.0)
        if isinstance(validation_data, tuple):
            check_examples(self, *validation_data[:2])
        if isinstance(x, keras.utils.PyDataset):
            # Keras would shuffle its batches by a seed that no resume knows; such data sets have their own order.
            kwargs.setdefault("shuffle", False)
        if isinstance(x, ImageBatches) and not kwargs["shuffle"] and not kwargs.get("steps_per_epoch"):
            x = BatchAdapter(x, kwargs.pop("class_weight", None))
        kwargs.update(batch_size=batch_size, epochs=epochs, verbose=verbose, callbacks=callbacks)
        kwargs.update(validation_split=validation_split, validation_data=validation_data)
        self._forget_bound()
        self._build_optimizer()
        self._is_fitting = True
        try:
            with synchronized_normalization(self):
                return super().fit(x, y, **kwargs)
        finally:
            self._is_fitting = False

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates as `keras.Model.evaluate` does, on radii of a freshly proved bound.

        A bound that fits the weights is kept. For a backbone without a known bound all radii are 0. During `fit` the
        head keeps what it trains with.
        """
        self._prove_bound_if_known()
        return super().evaluate(*args, **kwargs)

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Trains as `keras.Model.train_on_batch` does; a bound that was proved before is forgotten.

        Devices share the batch as in `fit`.
        """
        if self._proof is not None:
            self._forget_bound()
        self._build_optimizer()
        with synchronized_normalization(self):
            return super().train_on_batch(*args, **kwargs)

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates as `keras.Model.test_on_batch` does, on radii of a freshly proved bound."""
        self._prove_bound_if_known()
        return super().test_on_batch(*args, **kwargs)

    def embed(self, images: Any, batch_size: int = 256, verbose: int | str = 0) -> Floats:
        """Computes the embeddings of images.

        Args:
            images: Floats `[B, H, W, C]` in [0, 1], or any data set of such that `predict` takes.
            batch_size: Integer.
            verbose: As for `predict`.

        Returns:
            NumPy array `[B, D]`.

        Raises:
            ValueError: If this is one of several processes, none of which has all images.
        """
        require_one_process("an array of embeddings")
        return self.backbone.predict(images, batch_size=batch_size, verbose=verbose)

    def certify(
        self, images: Any, method: str | None = None, batch_size: int = 256, verbose: int | str = 0
    ) -> Certificate:
        """Classifies images and proves how far each may move before its class can change.

        Args:
            images: Floats `[B, H, W, C]` in [0, 1], or any data set of such that `predict` takes. Arrays are checked;
                an image of a data set that is not finite gets radius 0.
            method: `"nearest"`, `"union"`, `"exact"` or `"soft"`, see `clustr_keras.certificates`. The default is
                `"exact"` for 1 < K <= 4, else `"union"`, which for K = 1 is exact as well. With `"soft"` the class is
                that of the largest soft score (see `soft_radius`), and no radius is certified.
            batch_size: Integer.
            verbose: As for `predict`.

        Returns:
            A `Certificate`.

        Raises:
            ValueError: If an operation of the backbone has no known Lipschitz bound (it is named), a weight is not
                finite, or an image is not finite or leaves [0, 1].

        Example:

        >>> certificate = model.certify(x_test)
        >>> certificate.class_ids[:2], certificate.certified_radius[:2]
        """
        if isinstance(images, np.ndarray | list) or keras.ops.is_tensor(images):
            images = np.asarray(images)
            check_images(images, self.backbone.input_shape[1:])
        certifier = self.certifier(method)
        outputs = as_arrays(certifier.predict(images, batch_size=batch_size, verbose=verbose))
        return Certificate(
            class_ids=outputs["class_ids"],
            certified_radius=outputs.get("certified_radius"),
            radius=outputs["radius"],
            nearest_cluster=outputs["nearest_cluster"],
            runner_up_class_ids=outputs["runner_up_class_ids"],
            logits=outputs["logits"],
            lipschitz_bound=certifier.bound.value,
        )

    def certifier(self, method: str | None = None) -> Certifier:
        """The deployed form of this model, a `Certifier` on condensed weights; made afresh when weights changed.

        Args:
            method: As for `certify`.

        Raises:
            ValueError: If there is no such method, an operation of the backbone has no known Lipschitz bound, or a
                weight is not finite; or if this is one of several processes.
        """
        require_one_process("a certificate")
        if method is None:
            method = "exact" if 1 < self.clusters_per_class <= 4 else "union"
        if method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}; got {method!r}.")
        return self._proved().certifier(self.head, method)

    @property
    def free_variables(self) -> list[keras.Variable]:
        """What training depends on beside the weights and the optimizer: the perturbation of free training."""
        return [] if self._free is None else [self._free.delta]

    def prove_bound(self) -> float:
        """Proves the Lipschitz bound of the backbone as it is now, unless that has been done.

        The head holds it from then on, with the backbone's fingerprint; during `fit` it keeps what it trains with.

        Returns:
            Float, the bound.

        Raises:
            UnknownBoundError: (a `ValueError`) If an operation of the backbone has no known bound.
        """
        return self._proved().bound.value

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "num_classes": self.num_classes,
            "clusters_per_class": self.clusters_per_class,
            "class_names": self.class_names,
            "temperature": self.head.temperature,
            "head_trainable": self.head.trainable,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes a classifier from what `get_config` returned."""
        config = dict(config)
        config["backbone"] = keras.saving.deserialize_keras_object(config["backbone"])
        return cls(**config)

    def save_own_variables(self, store: MutableMapping[str, Any]) -> None:
        """Saves the number of the training step; the losses of a batch are of no use later."""
        store["training_step"] = keras.ops.convert_to_numpy(self.training_step)

    def load_own_variables(self, store: Mapping[str, Any]) -> None:
        """Loads the number of the training step."""
        self.training_step.assign(store["training_step"])

    def _proved(self) -> Proof:
        """The proof for the backbone as it is now."""
        current = fingerprint(self.backbone)
        if self._proof is None or not np.array_equal(current, self._proof.fingerprint):
            self._proof = Proof.of(self.backbone, current)
        if not self._is_fitting:
            self.head.set_lipschitz(self._proof.bound.value, current)
        return self._proof

    def _forget_bound(self):
        """Before training: L is 1 for a backbone that stays 1-Lipschitz, and unknown for any other."""
        self._proof = None
        self.head.set_lipschitz(1.0 if is_one_lipschitz_by_construction(self.backbone) else float("inf"))

    def _prove_bound_if_known(self):
        if self._is_fitting:
            return
        try:
            self.prove_bound()
        except UnknownBoundError:
            self._forget_bound()
