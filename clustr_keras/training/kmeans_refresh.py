"""Cluster centers from the embeddings of the training set, epoch by epoch."""

import contextlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from clustr_keras.backend import require_one_process
from clustr_keras.data.checks import check_labels
from clustr_keras.data.pixels import as_floats
from clustr_keras.integers import checked_integer
from clustr_keras.progress import progress_bar
from clustr_keras.training.clusters import Clusters, k_means_by_class
from clustr_keras.training.magnet_batches import MagnetBatches
from clustr_keras.types import ArrayLike


class KMeansRefresh(keras.callbacks.Callback):
    """Puts the head's centers where k-means finds the clusters of each class, at the start and after each epoch.

    Embeds the training set as it is, without augmentation and in inference mode, runs k-means on each class, and writes
    `head.centers` and `head.variance`: the sum of the squared distances of all training examples to their nearest
    own-class center over N - 1, one value for all clusters. What is refreshed after the last step of an epoch is there
    for its validation, for its checkpoints and for the next epoch.

    With `MagnetBatches` it also gives them their clusters, and after each step the losses of its examples, which it
    reads from `model.example_losses`, `[m * d]`.

    Args:
        data: `MagnetBatches`, or a tuple `(images, labels)` of arrays.
        every: Integer: refreshes after every so many epochs, and after the last one.
        n_init, max_iter, minibatch_above: As for `k_means_by_class`.
        batch_size: Integer, of the embedding.
        seed: Integer. The clusters depend on it, on the epoch and on the embeddings.
        verbose: Whether to show the progress of each refresh.

    Raises:
        ValueError: If `every` is not positive; when training starts, if the model has no `backbone` and `head`, they
            do not fit the data, or `fit` has its own `steps_per_epoch` or more than one step per execution; while it
            runs, if the embeddings are not finite or `model.example_losses` is missing.

    Example:

    >>> batches = MagnetBatches(x_train, y_train, num_classes=10)
    >>> model.fit(batches, epochs=90, callbacks=[KMeansRefresh(batches)])

    Reference:
        Alfarra et al., Rethinking Clustering for Robustness, BMVC 2021, section 3.
    """

    def __init__(
        self,
        data: MagnetBatches | tuple[np.ndarray, ArrayLike],
        every: int = 1,
        n_init: int = 1,
        max_iter: int = 20,
        minibatch_above: int = 100_000,
        batch_size: int = 512,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__()
        self.batches: MagnetBatches | None = None
        self.labels: ArrayLike
        if isinstance(data, MagnetBatches):
            self.batches, self.images, self.labels = data, data.images, data.labels
        elif isinstance(data, tuple) and len(data) == 2:
            self.images, self.labels = data
        else:
            raise ValueError(f"data must be MagnetBatches or a tuple (images, labels); got a {type(data).__name__}.")
        self.every = checked_integer("every", every, 1)
        self.seed = seed
        self.verbose = verbose
        self._settings = {
            "n_init": n_init,
            "max_iter": max_iter,
            "minibatch_above": minibatch_above,
            "batch_size": batch_size,
        }
        self._epoch = 0
        self._fresh_for = -1

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks that model, data and the arguments of `fit` go together."""
        _check_model(self.model)
        self._fresh_for = -1
        if self.batches is not None:
            self._check_fit(self.batches)
            self._fresh_for = self.batches.clusters_epoch
            self.batches.begin_training()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Refreshes unless that has been done after the epoch before."""
        is_needed = self.batches is not None and not self.batches.has_clusters
        if is_needed or (epoch % self.every == 0 and self._fresh_for != epoch):
            self._refresh(epoch)
        self._epoch, self._fresh_for = epoch, -1
        if self.batches is not None:
            self.batches.begin_epoch(epoch)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes that a step begins."""
        if self.batches is not None:
            self.batches.begin_step(batch)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Hands on the losses of the step; refreshes after the last one."""
        if self.batches is not None:
            self.batches.add_losses(batch, self._example_losses())
        if self.params.get("steps") == batch + 1:
            self._refresh_if_due()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Refreshes if the epoch had another number of steps than was known."""
        self._refresh_if_due()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Refreshes once more if the network has changed since."""
        if self._fresh_for < 0:
            self._refresh(self._epoch + 1)
        if self.batches is not None:
            self.batches.end_training()

    def _refresh_if_due(self):
        if (self._epoch + 1) % self.every == 0 and self._fresh_for < 0:
            self._refresh(self._epoch + 1)

    def _refresh(self, epoch):
        found = refresh(
            self.model, self.images, self.labels, seed=[self.seed, epoch], verbose=self.verbose, **self._settings
        )
        if self.batches is not None:
            self.batches.assign(found.assignments, found.centers, epoch)
        self._fresh_for = epoch

    def _example_losses(self):
        losses = getattr(self.model, "example_losses", None)
        if losses is None:
            raise ValueError(
                "the model has no example_losses, [m * d], after a training step; the batches are drawn by them. "
                "Compile a ClustrClassifier with MagnetLoss."
            )
        return keras.ops.copy(losses)  # the next step writes into the variable

    def _check_fit(self, batches):
        head = self.model.head
        given = (batches.num_classes, batches.clusters_per_class)
        if given != (head.num_classes, head.clusters_per_class):
            raise ValueError(
                f"the batches have {given[0]} classes of {given[1]} clusters, the model's head has {head.num_classes} "
                f"of {head.clusters_per_class}. Pass the same num_classes and clusters_per_class to both."
            )
        if self.model.steps_per_execution != 1:
            raise ValueError(
                "MagnetBatches draw each batch by the losses of the steps before, which arrive one step at a time; "
                f"got steps_per_execution={self.model.steps_per_execution}. Compile with steps_per_execution=1."
            )
        if self.params.get("steps") != batches.num_batches:
            raise ValueError(
                f"an epoch of these MagnetBatches has {batches.num_batches} steps; fit was going to make "
                f"{self.params.get('steps')}. Give steps_per_epoch to MagnetBatches, not to fit."
            )


def refresh(
    model: keras.Model,
    images: np.ndarray,
    labels: ArrayLike,
    n_init: int = 1,
    max_iter: int = 20,
    minibatch_above: int = 100_000,
    batch_size: int = 512,
    seed: int | Sequence[int] = 0,
    verbose: bool = False,
) -> Clusters:
    """Puts a model's cluster centers where k-means finds the clusters of each class.

    Writes `model.head.centers` and `model.head.variance`, see `KMeansRefresh`.

    Args:
        model: A `ClustrClassifier`, or any model with a `backbone` and a `ClusterHead` as `head`.
        images: `[N, H, W, C]`, uint8 or floats in [0, 1].
        labels: Class ids `[N]`.
        n_init, max_iter, minibatch_above, seed: As for `k_means_by_class`.
        batch_size: Integer, of the embedding.
        verbose: Whether to show the progress.

    Returns:
        `Clusters`.

    Raises:
        ValueError: If the model has no `backbone` and `head`, labels are out of range, a class has fewer than K
            examples, or the embeddings are not finite.

    Example:

    >>> refresh(model, x_train, y_train).variance
    """
    _check_model(model)
    require_one_process("k-means")
    head = model.head
    check_labels(labels, head.num_classes, len(images))
    labels = np.reshape(labels, -1).astype("int64")
    embeddings = _embed(model.backbone, images, min(batch_size, len(images)), verbose)
    found = k_means_by_class(
        embeddings, labels, head.num_classes, head.clusters_per_class, n_init, max_iter, minibatch_above, seed
    )
    head.centers.assign(found.centers)
    head.variance.assign(np.full(head.variance.shape, found.variance, "float32"))
    return found


def _embed(backbone, images, batch_size, verbose):
    """Embeddings in inference mode, `[N, D]` in float32; `predict` compiles the backbone once, in the first call."""
    batches = _Images(images, batch_size)
    bar = progress_bar("Embedding", len(batches)) if verbose else contextlib.nullcontext(lambda done: None)
    with bar as report:
        show = keras.callbacks.LambdaCallback(on_predict_batch_end=lambda batch, logs: report(batch + 1))
        embeddings = backbone.predict(batches, verbose=0, callbacks=[show])
    return np.asarray(embeddings[: len(images)], "float32")


class _Images(keras.utils.PyDataset):
    """Images in order, made floats batch by batch. The last batch is filled up, so that all have one shape."""

    def __init__(self, images: np.ndarray, batch_size: int) -> None:
        super().__init__()
        self.images = images
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __getitem__(self, index: int) -> np.ndarray:
        rows = np.arange(index * self.batch_size, (index + 1) * self.batch_size) % len(self.images)
        return as_floats(self.images[rows])


def _check_model(model):
    for name in ("backbone", "head"):
        if not hasattr(model, name):
            raise ValueError(
                f"the model must have a backbone and a ClusterHead as head; {type(model).__name__} has no {name}. "
                "Use a ClustrClassifier."
            )
