"""Batches made of whole clusters, drawn by the losses of the steps before."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from clustr_keras.data.augmentation import batch_generator
from clustr_keras.data.checks import check_labels
from clustr_keras.data.pixels import as_floats
from clustr_keras.integers import checked_integer
from clustr_keras.training.cluster_sampler import ClusterSampler
from clustr_keras.training.clusters import check_class_sizes
from clustr_keras.training.in_order import InOrderBatches
from clustr_keras.types import ArrayLike, Floats, Ints, Tensor


class MagnetBatches(InOrderBatches):
    """Batches of m clusters with d examples each, for the magnet loss.

    The seed cluster of a batch is drawn in proportion to the mean of its examples' last losses. Its impostors are the
    m - 1 clusters of other classes with centers nearest to its own. From each of these clusters up to d examples are
    drawn without replacement. Clusters not visited yet count with the mean loss of the others; while there are no
    losses, or only zeros, all clusters have the same chance. `KMeansRefresh` brings clusters and losses:

    >>> model.fit(batches, epochs=90, callbacks=[KMeansRefresh(batches)])

    Batch t of an epoch depends on the losses of its steps up to `t - 1 - lag` and on those of all epochs before, and
    on no other, whatever the speed and the threads. So `lag` batches can be made ahead while a step runs. Random
    numbers are a function of seed, epoch and t. To resume at the start of an epoch, here of epoch 3:

    >>> state = batches.get_state()  # in a callback's on_epoch_end, or after fit
    >>> batches.set_state(state)
    >>> model.fit(batches, initial_epoch=3, epochs=90, callbacks=[KMeansRefresh(batches)])

    In a training loop of your own call `assign` and `begin_epoch`, and for each step `batches[step]` and `add_losses`.

    Every batch has m * d rows. Where clusters are too small or too few to fill them the rest is padding: the
    batch's images and classes over again, since batch normalization and metrics see them too, with cluster -1 and
    weight 0.

    Args:
        images: `[N, H, W, C]`, uint8 or floats in [0, 1].
        labels: Class ids `[N]`.
        num_classes: Integer C, at least 2.
        clusters_per_class: Integer K, at least 1.
        clusters_per_batch: Integer m, at least 2.
        examples_per_cluster: Integer d, at least 2.
        steps_per_epoch: Integer; `ceil(N / (m * d))` by default. Set it here, not in `fit`.
        augmentation: Called as `augmentation(images, rng)` on each batch as it is stored, such as `CropAndFlip()`.
        lag: Integer, at least 0. With 0 no batch is made before the step ahead of it is over.
        seed: Integer, at least 0.

    Attributes:
        clusters_epoch: Integer, the coming epoch that the clusters were made for; -1 if there is none.
        seconds_waited: Floats `[steps]`, seconds that each step of the last epoch waited for its batch. Step 0 waits
            for the pipeline to start, and in the first epoch of `fit` for the compilation of the step.

    Output shape:
        Images float32 `[m * d, H, W, C]` in [0, 1]; class and cluster `class * K + k`, int32 `[m * d, 2]`; weights
        float32 `[m * d]`, 1 or, for padding, 0. The rows of a cluster stand together, those of the seed first.

    Raises:
        ValueError: If an argument is out of range, images and labels do not fit each other, a class has fewer than K
            examples, m exceeds the number of clusters, or the other classes have fewer than m - 1.

    Example:

    >>> train = load("cifar10").train
    >>> batches = MagnetBatches(train.images, train.labels, num_classes=10, augmentation=CropAndFlip())

    Reference:
        Rippel et al., Metric Learning with Adaptive Density Discrimination, ICLR 2016, section 3.
    """

    def __init__(
        self,
        images: ArrayLike,
        labels: ArrayLike,
        num_classes: int,
        clusters_per_class: int = 2,
        clusters_per_batch: int = 12,
        examples_per_cluster: int = 20,
        steps_per_epoch: int | None = None,
        augmentation: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
        lag: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_classes = checked_integer("num_classes", num_classes, 2)
        self.clusters_per_class = checked_integer("clusters_per_class", clusters_per_class, 1)
        self.clusters_per_batch = checked_integer("clusters_per_batch", clusters_per_batch, 2)
        self.examples_per_cluster = checked_integer("examples_per_cluster", examples_per_cluster, 2)
        self.lag = checked_integer("lag", lag, 0)
        self.seed = checked_integer("seed", seed, 0)
        self.augmentation = augmentation
        self._check_clusters_per_batch()

        self.images = np.asarray(images)
        if self.images.ndim != 4 or len(self.images) == 0:
            raise ValueError(f"images must have shape [N, H, W, C] with N at least 1; got {self.images.shape}.")
        if self.images.dtype != np.uint8:
            as_floats(self.images)  # all are checked once, before training
        check_labels(labels, self.num_classes, len(self.images))
        self.labels = np.reshape(labels, -1).astype("int64")
        check_class_sizes(self.labels, self.num_classes, self.clusters_per_class)
        if steps_per_epoch is None:
            steps_per_epoch = math.ceil(len(self.images) / self.batch_size)
        self.steps_per_epoch = checked_integer("steps_per_epoch", steps_per_epoch, 1)

        self.clusters_epoch = -1
        self._sampler = ClusterSampler(
            self.labels,
            self.num_classes,
            self.clusters_per_class,
            self.clusters_per_batch,
            self.examples_per_cluster,
            self.lag,
            self.seed,
        )

    @property
    def batch_size(self) -> int:
        """Integer, m * d."""
        return self.clusters_per_batch * self.examples_per_cluster

    @property
    def num_batches(self) -> int:
        """Number of batches in an epoch."""
        return self.steps_per_epoch

    @property
    def has_clusters(self) -> bool:
        """Whether there are clusters to draw from."""
        return self._sampler.has_clusters

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, step: int) -> tuple[Floats, Ints, Floats]:
        """Makes the batch of a step of the current epoch.

        Raises:
            IndexError: If there is no such step.
            RuntimeError: If there are no clusters yet, no epoch has begun, or losses have not arrived that the batch
                depends on. Inside `fit`, other threads than its own wait for them.
        """
        if not 0 <= step < self.num_batches:
            raise IndexError(f"step must lie in 0..{self.num_batches - 1}; got {step}.")
        with self.changed:
            self._check_clusters()
            while not self._sampler.can_draw(step):
                if not self.wait():
                    raise RuntimeError(self._what_is_missing(step))
            epoch = self._sampler.epoch
            rows, clusters = self._sampler.draw(step)
        images = self.images[np.resize(rows, self.batch_size)]  # over again, as often as it takes
        if self.augmentation is not None:
            images = self.augmentation(images, batch_generator(self.seed, epoch, step))
            self._check_augmented(images)
        return as_floats(images), *self._targets(rows, clusters)

    def example_batch(self) -> tuple[Floats, Ints, Floats]:
        """A batch of the right shape, of nothing but padding."""
        nothing = np.zeros(0, "int64")
        return as_floats(self.images[np.zeros(self.batch_size, "int64")]), *self._targets(nothing, nothing)

    def assign(self, assignments: ArrayLike, centers: ArrayLike, epoch: int = 0) -> None:
        """Takes the clusters that batches are drawn from.

        Args:
            assignments: Cluster `class * K + k` of each example, ints `[N]`. Empty clusters are never drawn.
            centers: Floats `[C, K, D]`.
            epoch: Integer, the coming epoch that the clusters were made for.

        Raises:
            ValueError: If the shapes are others, a cluster is of another class than its example, or a center is not
                finite.
        """
        assignments, centers = np.asarray(assignments), np.asarray(centers)
        self._check_assignments(assignments)
        clusters = (self.num_classes, self.clusters_per_class)
        if centers.ndim != 3 or centers.shape[:2] != clusters or not np.isfinite(centers).all():
            raise ValueError(
                f"centers must be finite floats [{self.num_classes}, {self.clusters_per_class}, D]; "
                f"got {'' if np.isfinite(centers).all() else 'a NaN or an infinity in '}shape {list(centers.shape)}."
            )
        with self.changed:
            self._sampler.assign(assignments.astype("int64"), centers.astype("float32"))
            self.clusters_epoch = epoch

    def begin_epoch(self, epoch: int) -> None:
        """Starts an epoch, from its batch 0.

        Raises:
            RuntimeError: If there are no clusters yet.
        """
        self._check_clusters()
        with self.changed:
            self._sampler.begin_epoch(epoch)
            self.clusters_epoch = -1
            self.announce_epoch()
            self.changed.notify_all()

    def add_losses(self, step: int, losses: Tensor) -> None:
        """Takes the losses of a step, in the order of its batch; those of the last step end the epoch.

        Args:
            step: Integer.
            losses: Floats `[m * d]`, an array or a tensor whose value stays. It is read when a batch depends on it, so
                that an accelerator is not waited for.

        Raises:
            ValueError: If there is not one loss for each row of a batch.
            RuntimeError: If it is not this step's turn, or its batch was never made.
        """
        if tuple(losses.shape) != (self.batch_size,):
            raise ValueError(
                f"losses must have shape [{self.batch_size}] (m * d), one for each row of a batch; "
                f"got {list(losses.shape)}."
            )
        with self.changed:
            if not self._sampler.is_due(step):
                raise RuntimeError(
                    f"losses of step {step} arrived out of turn. Every step of an epoch takes its batch from these "
                    "batches and brings its losses, in order. Pass the same batches to fit and to KMeansRefresh."
                )
            self._sampler.add_losses(losses)
            if step == self.num_batches - 1:
                self._sampler.end_epoch()
            self.changed.notify_all()

    def get_state(self) -> dict[str, Any]:
        """What the coming batches depend on besides the constructor's arguments, between two epochs.

        Returns:
            A dict of arrays and an integer: `example_losses` and `has_loss`, `[N]`; and, once there are clusters,
            `assignments` `[N]`, `centers` `[C, K, D]` and `clusters_epoch`.
        """
        with self.changed:
            example_losses, has_loss = self._sampler.losses_so_far()
            state: dict[str, Any] = {"example_losses": example_losses, "has_loss": has_loss}
            if self.has_clusters:
                state["assignments"] = self._sampler.assignments.copy()
                state["centers"] = self._sampler.centers.copy()
                state["clusters_epoch"] = self.clusters_epoch
        return state

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Takes what `get_state` gave; an epoch that was cut short is forgotten.

        Raises:
            ValueError: If the state is of other data or other clusters.
        """
        example_losses, has_loss = np.array(state["example_losses"], "float32"), np.array(state["has_loss"], bool)
        if not example_losses.shape == has_loss.shape == self.labels.shape:
            raise ValueError(
                f"the state is of {example_losses.size} examples, these batches have {len(self.labels)}. "
                "Resume on the data that it was saved with."
            )
        if "assignments" in state:
            self.assign(state["assignments"], state["centers"], int(state["clusters_epoch"]))
        with self.changed:
            self._sampler.set_losses(example_losses, has_loss)

    def _targets(self, rows, clusters):
        y_true = np.tile(np.array([0, -1], "int32"), (self.batch_size, 1))
        if len(rows):
            y_true[:, 0] = self.labels[np.resize(rows, self.batch_size)]
        y_true[: len(rows), 1] = clusters
        return y_true, (np.arange(self.batch_size) < len(rows)).astype("float32")

    def _what_is_missing(self, step):
        if not self._sampler.is_in_epoch:
            return (
                "no epoch has begun. Inside fit pass callbacks=[KMeansRefresh(batches)]; "
                "in a training loop of your own call begin_epoch(epoch)."
            )
        return (
            f"batch {step} depends on the losses of step {step - 1 - self.lag}, and those of "
            f"{self._sampler.steps_done} steps have arrived. Inside fit pass callbacks=[KMeansRefresh(batches)]; "
            "in a training loop of your own call add_losses after each step."
        )

    def _check_clusters(self):
        if not self.has_clusters:
            raise RuntimeError(
                "there are no clusters yet to draw batches from. Pass callbacks=[KMeansRefresh(batches)] to fit, "
                "or call assign(assignments, centers)."
            )

    def _check_clusters_per_batch(self):
        m, C, K = self.clusters_per_batch, self.num_classes, self.clusters_per_class
        if m > C * K:
            raise ValueError(
                f"clusters_per_batch must be at most {C} * {K} = {C * K}, the number of clusters; got {m}. "
                "Pass a smaller one, or more clusters_per_class."
            )
        if m - 1 > (C - 1) * K:
            raise ValueError(
                f"clusters_per_batch={m} asks for {m - 1} impostor clusters of other classes; there are "
                f"{C - 1} * {K} = {(C - 1) * K}. Pass at most {(C - 1) * K + 1}."
            )

    def _check_assignments(self, assignments):
        if assignments.shape != self.labels.shape or not np.issubdtype(assignments.dtype, np.integer):
            raise ValueError(
                f"assignments must be {len(self.labels)} integers, one for each example; "
                f"got shape {list(assignments.shape)} of {assignments.dtype}."
            )
        is_bad = assignments // self.clusters_per_class != self.labels
        if is_bad.any():
            index = int(np.argmax(is_bad))
            raise ValueError(
                f"assignments must be class * {self.clusters_per_class} + k with the class of the example; "
                f"got {assignments[index]} at index {index}, whose class is {self.labels[index]}."
            )

    def _check_augmented(self, images):
        expected = (self.batch_size, *self.images.shape[1:])
        if np.shape(images) != expected:
            raise ValueError(
                f"augmentation must keep the shape of the images; got {np.shape(images)} for {expected}. "
                "Resizing belongs before the batches or into the backbone."
            )
