"""The classifier: a backbone, a head of cluster centers, and certificates."""

import contextlib
import contextvars
import dataclasses

import keras
import numpy as np

from clustr_keras.backend import (
    can_share,
    num_replicas,
    of_all_replicas,
    require_one_process,
    strategy_scope,
    synchronized_normalization,
)
from clustr_keras.certification import METHODS, Certifier, as_arrays
from clustr_keras.consistency import FreeAdversarialTraining
from clustr_keras.data.batches import ImageBatches
from clustr_keras.data.checks import check_images, check_labels
from clustr_keras.heads import ClusterHead
from clustr_keras.lipschitz import (
    LipschitzBound,
    UnknownBoundError,
    bound,
    condense,
    fingerprint,
    is_one_lipschitz_by_construction,
)
from clustr_keras.lipschitz.arithmetic import is_ieee_float32
from clustr_keras.lipschitz.blocked import blocked
from clustr_keras.losses import CertifiedMarginLoss
from clustr_keras.objective import Objective, class_ids, is_class_and_cluster

# The model whose step is being made and needs embeddings beside its logits. Replicas have threads of their own.
_in_step = contextvars.ContextVar("in_step", default=None)
# The loss of the step that this thread makes. An attribute would be another replica's after they have met.
_loss_of_step = contextvars.ContextVar("loss_of_step", default=None)


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What `ClustrClassifier.certify` proves of a batch of images. Radii are l_2, for pixels in [0, 1].

    Args:
        class_ids: int64 `[B]`, the predicted classes.
        certified_radius: float32 `[B]`: no change of the image with a norm below it changes the predicted class of
            the deployed float32 model. `None` where the rounding of the backbone's evaluation has no analysis.
        radius: float32 `[B]`, the same in real arithmetic, without the rounding slack; as other libraries report it.
        nearest_cluster: int64 `[B]`, `class * K + cluster` of the nearest center.
        runner_up_class_ids: int64 `[B]`, the classes with the second largest logits.
        logits: float32 `[B, C]`, distance logits.
        lipschitz_bound: Float, the proved bound of the backbone.
    """

    class_ids: np.ndarray
    certified_radius: np.ndarray | None
    radius: np.ndarray
    nearest_cluster: np.ndarray
    runner_up_class_ids: np.ndarray
    logits: np.ndarray
    lipschitz_bound: float

    def __len__(self):
        return len(self.class_ids)

    def accuracy_at(self, radius, labels):
        """Certified accuracy: share of examples that are right and certified at least up to `radius`.

        At 0 it is the clean accuracy.

        Raises:
            ValueError: If `radius` is negative, there is not one label for each example, or nothing is certified
                because the backbone has no rounding analysis.
        """
        labels = np.reshape(labels, -1)
        if len(labels) != len(self):
            raise ValueError(f"expected {len(self)} labels, one for each example; got {len(labels)}.")
        if not radius >= 0:
            raise ValueError(f"radius must be at least 0; got {radius}.")
        is_right = self.class_ids == labels
        if radius == 0:
            return float(np.mean(is_right))
        if self.certified_radius is None:
            raise ValueError(
                "there is no certified radius: the backbone has no rounding analysis, or the arithmetic in use is not "
                "IEEE float32. `radius` holds the radii in real arithmetic."
            )
        return float(np.mean(is_right & (self.certified_radius >= radius)))


@dataclasses.dataclass
class _Proof:
    """The backbone as it is deployed, its bound, and what was built on them.

    Not a dict or a list: Keras would track, and save, that.
    """

    deployed: keras.Model
    bound: LipschitzBound
    fingerprint: np.ndarray
    certifiers: dict = dataclasses.field(default_factory=dict)


@keras.saving.register_keras_serializable(package="clustr_keras")
class ClustrClassifier(keras.Model):
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
    >>> model.compile("adam")
    >>> model.fit(x_train, y_train, epochs=20)
    >>> model.certify(x_test).certified_radius

    Reference:
        Alfarra et al., Rethinking Clustering for Robustness, BMVC 2021.
    """

    def __init__(self, backbone, num_classes, clusters_per_class=1, class_names=None, temperature=8.0, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(backbone, keras.Model) or not backbone.built:
            raise ValueError(f"backbone must be a built keras.Model; got {backbone!r}. Build it from keras.Input.")
        self.backbone = backbone
        self.head = ClusterHead(num_classes, clusters_per_class, temperature=temperature, name="head")
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

    def call(self, images, training=None):
        """Computes the distance logits."""
        embeddings = self.backbone(images, training=training)
        logits = self.head(embeddings)
        # A step needs both from one pass: a second one costs a third more, and updates batch normalization twice.
        return {"logits": logits, "embeddings": embeddings} if _in_step.get() is self else logits

    def compile(
        self,
        optimizer="adam",
        loss=None,
        loss_weights=None,
        metrics=("accuracy",),
        consistency=None,
        xent_lambda=0.0,
        free=None,
        **kwargs,
    ):
        """Configures training as `keras.Model.compile` does.

        Args:
            optimizer: As for `keras.Model.compile`.
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
        if loss is None:
            loss = CertifiedMarginLoss(temperature=self.head.temperature)
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

    def compile_from_config(self, config):
        """Compiles a loaded model as it was when it was saved."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(self, x=None, y=None, *args, validation_data=None, **kwargs):
        """Trains as `keras.Model.fit` does, after a check of the data.

        Arrays are checked whole; of any other data set its first batch is. The batches of a `PyDataset` are taken in
        their own order unless `shuffle=True` is given.

        A model made under a `tf.distribute.MirroredStrategy` trains as on one device: losses are those of the whole
        batch, and batch normalization takes its statistics over all of it. Devices take equal shares of a batch; only
        a smaller one at the end of an epoch need not divide, but leave none of them without an example.

        Raises:
            ValueError: Before training, if the data is empty, an image leaves [0, 1] or has another shape than the
                backbone's input, a label leaves `0..C-1`, an embedding is not finite, or devices cannot share the
                batches.
        """
        if self._objective.has_batch_clusters and hasattr(x, "add_losses"):
            if kwargs.get("class_weight") is not None:
                raise ValueError("MagnetBatches carry weights of their own; class_weight has no effect on them.")
            self._make_example_losses(x.batch_size)
        rows = self._check_data(x, y)
        if _is_array(x):
            batch_size = (args[0] if args else kwargs.get("batch_size")) or 32
            self._check_shares(min(rows, batch_size), rows % batch_size)
        else:
            self._check_shares(rows, len(x.split) % x.batch_size if _has_small_last_batch(x) else 0)
        if isinstance(validation_data, tuple):
            self._check_data(*validation_data[:2])
        if isinstance(x, keras.utils.PyDataset):
            # Keras would shuffle its batches by a seed that no resume knows; such data sets have their own order.
            kwargs.setdefault("shuffle", False)
        self._forget_bound()
        self._build_optimizer()
        self._is_fitting = True
        try:
            with synchronized_normalization(self):
                return super().fit(x, y, *args, validation_data=validation_data, **kwargs)
        finally:
            self._is_fitting = False

    def evaluate(self, *args, **kwargs):
        """Evaluates as `keras.Model.evaluate` does, on radii of a freshly proved bound.

        A bound that fits the weights is kept. For a backbone without a known bound all radii are 0. During `fit` the
        head keeps what it trains with.
        """
        self._prove_bound_if_known()
        return super().evaluate(*args, **kwargs)

    def train_on_batch(self, *args, **kwargs):
        """Trains as `keras.Model.train_on_batch` does; a bound that was proved before is forgotten."""
        if self._proof is not None:
            self._forget_bound()
        self._build_optimizer()
        with synchronized_normalization(self):
            return super().train_on_batch(*args, **kwargs)

    def test_on_batch(self, *args, **kwargs):
        """Evaluates as `keras.Model.test_on_batch` does, on radii of a freshly proved bound."""
        self._prove_bound_if_known()
        return super().test_on_batch(*args, **kwargs)

    def train_step(self, *args):
        """Makes one training step; with `free`, one for each replay."""
        with self._giving_embeddings(self._objective.needs_embeddings or self._free is not None):
            if self._free is None:
                return super().train_step(*args)
            images, y, sample_weight = keras.utils.unpack_x_y_sample_weight(*args)
            return self._free.train_step(
                images,
                step=lambda images: super(ClustrClassifier, self).train_step((images, y, sample_weight)),
                loss=lambda: self.optimizer.scale_loss(_loss_of_step.get()),
            )

    def test_step(self, *args):
        """Makes one step of an evaluation."""
        with self._giving_embeddings(not self._objective.acts_on_logits):
            return super().test_step(*args)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Computes the loss, and in training the terms beside it."""
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
            self.training_step.assign_add(1)
        if self._free is not None:
            _loss_of_step.set(loss)
        return loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Updates the metrics, which are about the logits."""
        if isinstance(y_pred, dict):
            y, y_pred = class_ids(y), y_pred["logits"]
        elif not self._objective.acts_on_logits:
            y = class_ids(y)  # outside of a step, where Keras finds out about shapes
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def embed(self, images, batch_size=256, verbose=0):
        """Computes the embeddings `[B, D]` of images, as a NumPy array."""
        require_one_process("an array of embeddings")
        return self.backbone.predict(images, batch_size=batch_size, verbose=verbose)

    def certify(self, images, method=None, batch_size=256, verbose=0):
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

    def certifier(self, method=None):
        """The deployed form of this model, a `Certifier` on condensed weights; made afresh when weights changed."""
        require_one_process("a certificate")
        if method is None:
            method = "exact" if 1 < self.clusters_per_class <= 4 else "union"
        if method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}; got {method!r}.")
        self.prove_bound()
        centers = keras.ops.convert_to_numpy(self.head.centers)
        if not np.isfinite(centers).all():
            raise ValueError("the cluster centers hold a NaN or an infinity; nothing can be certified.")
        variance = keras.ops.convert_to_numpy(self.head.variance).tobytes() if method == "soft" else None
        key = (method, is_ieee_float32(), centers.tobytes(), variance)
        if key not in self._proof.certifiers:
            self._proof.certifiers[key] = Certifier(self._proof.deployed, self.head, self._proof.bound, method)
        return self._proof.certifiers[key]

    @property
    def free_variables(self):
        """What training depends on beside the weights and the optimizer: the perturbation of free training."""
        return [] if self._free is None else [self._free.delta]

    def prove_bound(self):
        """Proves the Lipschitz bound of the backbone as it is now, unless that has been done.

        The head holds it from then on, with the backbone's fingerprint; during `fit` it keeps what it trains with.

        Returns:
            Float, the bound.

        Raises:
            UnknownBoundError: (a `ValueError`) If an operation of the backbone has no known bound.
        """
        current = fingerprint(self.backbone)
        if self._proof is None or not np.array_equal(current, self._proof.fingerprint):
            deployed = blocked(condense(self.backbone))
            self._proof = _Proof(deployed, bound(deployed), current)
        if not self._is_fitting:
            self.head.set_lipschitz(self._proof.bound.value, current)
        return self._proof.bound.value

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "num_classes": self.num_classes,
            "clusters_per_class": self.clusters_per_class,
            "class_names": self.class_names,
            "temperature": self.head.temperature,
        }

    @classmethod
    def from_config(cls, config):
        """Makes a classifier from what `get_config` returned."""
        config = dict(config)
        config["backbone"] = keras.saving.deserialize_keras_object(config["backbone"])
        return cls(**config)

    def save_own_variables(self, store):
        """Saves the number of the training step; the losses of a batch are of no use later."""
        store["training_step"] = keras.ops.convert_to_numpy(self.training_step)

    def load_own_variables(self, store):
        """Loads the number of the training step."""
        self.training_step.assign(store["training_step"])

    @contextlib.contextmanager
    def _giving_embeddings(self, gives):
        token = _in_step.set(self if gives else None)
        try:
            yield
        finally:
            _in_step.reset(token)

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

    def _build_optimizer(self):
        """Makes the optimizer's variables: made within a step of TensorFlow's, they would have it traced twice."""
        if not self.compiled or self.optimizer.built:
            return
        with strategy_scope(self):
            self.optimizer.build(self.trainable_variables)

    def _check_data(self, x, y):
        """Checks what there is to see before training; returns the number of examples looked at."""
        if hasattr(x, "example_batch"):
            # Batches of clusters, which have checked their labels; there are none to draw before training begins.
            x, y = x.example_batch()[0], np.zeros(x.batch_size, "int64")
        if _is_array(x):
            x, whole = np.asarray(x), True
            if y is None:
                raise ValueError("labels are missing: pass y, class ids [B].")
        else:
            x, y, whole = *_first_batch(x), False
        check_images(x, self.backbone.input_shape[1:])
        check_labels(y, self.num_classes, len(x))
        if keras.distribution.distribution() is not None:
            return len(x)  # what one process has is a share of a batch, and no batch by itself
        # Not with predict, which would share these few among devices.
        embeddings = keras.ops.convert_to_numpy(self.backbone(x[:32], training=False))
        if not np.isfinite(embeddings).all():
            share = np.mean(~np.isfinite(embeddings).all(axis=-1))
            raise ValueError(
                f"{share:.0%} of the embeddings of the first images are not finite before training; expected numbers. "
                f"Check the weights of the backbone {self.backbone.name!r}{'' if whole else ' and the data set'}."
            )
        return len(x)

    def _check_shares(self, rows, last):
        """Keras builds a model for replicas from the mean of their first shares, which then must have one shape."""
        with strategy_scope(self):
            count = num_replicas()
            if not can_share(last):
                raise ValueError(
                    f"the last batch of an epoch, with {last} examples, leaves some of {count} devices without any. "
                    "Choose another batch size, or ImageBatches with drop_remainder=True."
                )
        if rows % count:
            raise ValueError(
                f"{count} devices take equal shares of a batch; got a first batch of {rows} examples. "
                f"Choose a batch size that is a multiple of {count}, or another number of devices."
            )


def _is_array(x):
    return isinstance(x, np.ndarray | list | tuple) or keras.ops.is_tensor(x)


def _has_small_last_batch(x):
    return isinstance(x, ImageBatches) and not x.drop_remainder


def _first_batch(dataset):
    """Images and labels of the first batch of a tf.data.Dataset, PyDataset, generator-free data set or data loader."""
    if dataset is None:
        raise ValueError("there is no training data: pass x and y, or a data set.")
    if isinstance(dataset, keras.utils.PyDataset):
        batch = dataset[0] if dataset.num_batches != 0 else None
    elif hasattr(dataset, "__next__"):
        raise ValueError("a generator cannot be checked before training; wrap it in a keras.utils.PyDataset.")
    else:
        batch = next(iter(dataset), None)
    if batch is None:
        raise ValueError("the data set is empty; expected at least one batch.")
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise ValueError(f"a data set must give (images, labels); got {type(batch).__name__}.")
    return np.asarray(batch[0]), np.asarray(batch[1])
