"""The paper's training and its baselines, from a data set to a trained classifier."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable

import keras

from clustr_keras.backbones import CIFAR10_MEAN, CIFAR10_STD, convnet, resnet18
from clustr_keras.classifier import ClustrClassifier
from clustr_keras.consistency import QTRADES, TRADES, ConsistencyTerm
from clustr_keras.data import ImageDataset, default_augmentation
from clustr_keras.data.image_dataset import base_name
from clustr_keras.losses import MagnetLoss
from clustr_keras.training.epoch_checkpoint import EpochCheckpoint
from clustr_keras.training.kmeans_refresh import KMeansRefresh
from clustr_keras.training.magnet_batches import MagnetBatches
from clustr_keras.training.plain_batches import plain_batches
from clustr_keras.training.resumed_schedule import ResumedSchedule

PAPER_EPS = 8 / 255


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of a training; the defaults are the paper's for CIFAR-10.

    Args:
        backbone: `"resnet18"` or, for small images and few cores, `"convnet"`.
        width: Integer, channels of the backbone's first stage.
        magnet: Whether to train on the magnet loss with k-means, instead of the cross-entropy of the distance logits.
        clusters_per_class, clusters_per_batch, examples_per_cluster: Integers K, m and d; a plain batch has m * d
            examples.
        alpha: Float, of the magnet loss.
        learning_rate: Float, of Adam.
        epochs: Integer.
        milestones: The learning rate is divided by 10 after each of these epochs.
        n_init, max_iter: Of k-means.
        consistency: `ConsistencyTerm` that is added to the loss, or `None`.
        pretraining: `Recipe` that comes first, or `None`.
        seed: Integer, of the weights, the order of the data, augmentation and clusters.

    Reference:
        Alfarra et al., Rethinking Clustering for Robustness, BMVC 2021, section 4 and its published code.
    """

    backbone: str = "resnet18"
    width: int = 64
    magnet: bool = True
    clusters_per_class: int = 2
    clusters_per_batch: int = 12
    examples_per_cluster: int = 20
    alpha: float = 12.5
    learning_rate: float = 1e-4
    epochs: int = 90
    milestones: tuple[int, ...] = (30, 60)
    n_init: int = 1
    max_iter: int = 20
    consistency: ConsistencyTerm | None = None
    pretraining: "Recipe | None" = None
    seed: int = 0

    @property
    def batch_size(self) -> int:
        """Integer, m * d."""
        return self.clusters_per_batch * self.examples_per_cluster

    def faster(self) -> "Recipe":
        """The same at a scale for a CPU: a small convnet, a fifth of the epochs, ten times the learning rate."""
        return dataclasses.replace(
            self,
            backbone="convnet",
            width=16,
            learning_rate=10 * self.learning_rate,
            epochs=max(1, self.epochs // 5),
            milestones=tuple(milestone // 5 for milestone in self.milestones),
            pretraining=self.pretraining and self.pretraining.faster(),
        )


def paper_recipe(name: str, data: str = "cifar10", eps: float | None = None, seed: int = 0) -> Recipe:
    """The published settings of one way of training.

    Args:
        name: `"clustr"`; `"clustr-qtrades"`, which goes on from it with QTRADES (lambda = 8, 25 epochs) on log-space
            scores; `"clustr-qtrades-paper"`, the same on the published scores, which saturate: to study what they hide,
            not for use; or, on the same network and schedule, `"standard"` (cross-entropy) and `"trades"` (with TRADES,
            beta = 6).
        data: Name of the data set: k-means starts once and makes 20 iterations on CIFAR-10, 10 times and 40 elsewhere.
        eps: Float, radius of the l_inf ball of the adversarial ones, pixels in [0, 1]; 8/255 by default.
        seed: Integer.

    Returns:
        A `Recipe`.

    Raises:
        ValueError: If there is no recipe of that name. (`"certified"` is `CertifiedRecipe`, for `train_certified`.)

    Example:

    >>> paper_recipe("clustr-qtrades").consistency.weight
    8.0
    """
    eps = PAPER_EPS if eps is None else eps
    clustr = Recipe(seed=seed) if base_name(data) == "cifar10" else Recipe(n_init=10, max_iter=40, seed=seed)
    plain = dataclasses.replace(clustr, magnet=False, clusters_per_class=1)

    def with_qtrades(scores):
        term = QTRADES(weight=8.0, eps=eps, scores=scores, seed=seed)
        return dataclasses.replace(clustr, epochs=25, consistency=term, pretraining=clustr)

    recipes = {
        "clustr": clustr,
        "clustr-qtrades": with_qtrades("log"),
        "clustr-qtrades-paper": with_qtrades("paper"),
        "standard": plain,
        "trades": dataclasses.replace(
            plain, consistency=TRADES(weight=6.0, eps=eps, step_size=eps / 4, scores="logits", seed=seed)
        ),
    }
    if name not in recipes:
        raise ValueError(f"there is no recipe {name!r}; expected one of certified, {', '.join(sorted(recipes))}.")
    return recipes[name]


def train(
    dataset: ImageDataset,
    recipe: Recipe,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    model: ClustrClassifier | None = None,
    initial_epoch: int = 0,
) -> ClustrClassifier:
    """Trains a classifier on a data set by a recipe.

    Args:
        dataset: `ImageDataset`.
        recipe: `Recipe`.
        checkpoint_dir: Folder of a checkpoint at each epoch's end. Where one is found the training goes on from there.
            No checkpoint by default.
        callbacks: Keras callbacks of the last stage.
        model: `ClustrClassifier` to go on from, instead of a fresh one and of the recipe's `pretraining`.
        initial_epoch: Integer, epochs of the recipe that the model has been trained for. Learning rate and batches go
            on from there, the optimizer's moments start anew. A checkpoint keeps those too, and its epoch counts.

    Returns:
        The trained `ClustrClassifier`.

    Raises:
        ValueError: If data and recipe do not fit, or a checkpoint is of something else.

    Example:

    >>> model = train(load("cifar10"), paper_recipe("clustr"), checkpoint_dir="runs/clustr")
    """
    if model is None and recipe.pretraining is not None:
        stage = None if checkpoint_dir is None else pathlib.Path(checkpoint_dir) / "pretraining"
        model = train(dataset, recipe.pretraining, stage)
    elif model is None:
        keras.utils.set_random_seed(recipe.seed)
        model = make_classifier(dataset, recipe)
    batches = _batches(dataset, recipe)
    # As published: where k-means places the centers, the gradient does not.
    model.head.trainable = not recipe.magnet
    model.compile(_optimizer(recipe, len(batches), initial_epoch), _loss(recipe), consistency=recipe.consistency)
    first, callbacks = initial_epoch, list(callbacks)
    if hasattr(batches, "epoch"):
        batches.epoch = first
    if recipe.magnet:
        refresh = KMeansRefresh(batches, n_init=recipe.n_init, max_iter=recipe.max_iter, seed=recipe.seed)
        callbacks = [refresh, *callbacks]
    if checkpoint_dir is not None:
        checkpoint = EpochCheckpoint(checkpoint_dir, batches, callbacks)
        first = checkpoint.restore(model) or first
        callbacks.append(checkpoint)
    if first < recipe.epochs:
        model.fit(batches, initial_epoch=first, epochs=recipe.epochs, verbose=0, callbacks=callbacks)
    return model


def make_classifier(dataset: ImageDataset, recipe: Recipe) -> ClustrClassifier:
    """An untrained classifier for a data set, its pixels normalized inside the network."""
    make: dict[str, Callable[..., keras.Model]] = {"resnet18": resnet18, "convnet": convnet}
    if recipe.backbone not in make:
        raise ValueError(f"backbone must be one of {', '.join(sorted(make))}; got {recipe.backbone!r}.")
    mean, std = (CIFAR10_MEAN, CIFAR10_STD) if dataset.image_shape[-1] == 3 else (0.5, 0.25)
    backbone = make[recipe.backbone](dataset.image_shape, mean=mean, std=std, width=recipe.width)
    return ClustrClassifier(
        backbone, dataset.num_classes, recipe.clusters_per_class, class_names=list(dataset.class_names)
    )


def _batches(dataset, recipe):
    augmentation = default_augmentation(dataset.name)
    if not recipe.magnet:
        return plain_batches(dataset.train, recipe.batch_size, augmentation, recipe.seed)
    return MagnetBatches(
        dataset.train.images,
        dataset.train.labels,
        dataset.num_classes,
        recipe.clusters_per_class,
        recipe.clusters_per_batch,
        recipe.examples_per_cluster,
        augmentation=augmentation,
        seed=recipe.seed,
    )


def _optimizer(recipe, steps, initial_epoch=0):
    """Adam, its learning rate divided by 10 after each milestone."""
    # Up to and including its boundary a rate holds.
    milestones = [milestone * steps - 1 for milestone in recipe.milestones if 0 < milestone < recipe.epochs]
    rates = [recipe.learning_rate / 10**count for count in range(len(milestones) + 1)]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(milestones, rates) if milestones else rates[0]
    if milestones and initial_epoch:
        schedule = ResumedSchedule(schedule, initial_epoch * steps)
    return keras.optimizers.Adam(schedule)


def _loss(recipe):
    if recipe.magnet:
        return MagnetLoss(recipe.alpha)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
