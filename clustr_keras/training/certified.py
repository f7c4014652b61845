"""Certified training: a Lipschitz backbone under the certified margin loss."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from clustr_keras.backbones import lipschitz_mlp
from clustr_keras.classifier import ClustrClassifier
from clustr_keras.data import ImageBatches, RandomAffine, Split
from clustr_keras.losses import CertifiedMarginLoss
from clustr_keras.metrics import CertifiedAccuracy

_LIKE_MNIST = ("mnist", "mnist10k", "fashion_mnist", "kmnist")


@dataclasses.dataclass(frozen=True)
class CertifiedRecipe:
    """Settings of certified training; the defaults are those of the bundled digits.

    Args:
        widths: Output sizes of the backbone's layers.
        clusters_per_class: Integer K.
        temperature, margin: Of the `CertifiedMarginLoss`; the margin is about twice the radius aimed at.
        learning_rate: Peak of Adam's learning rate, which falls to 0 along a cosine.
        warmup: Share of all steps in which the learning rate rises to its peak.
        epochs, batch_size: As for `fit`.
        augmentation: What the training images go through, called with a batch and a random generator, or `None`.
        watched_radius: Radius of the certified accuracy that is shown while training.
        seed: Integer, of the weights and the order of the data.
    """

    widths: tuple[int, ...] = (256, 256, 64)
    clusters_per_class: int = 1
    temperature: float = 4.0
    margin: float = 0.8
    learning_rate: float = 5e-3
    warmup: float = 0.0
    epochs: int = 60
    batch_size: int = 64
    augmentation: Callable | None = None
    watched_radius: float = 0.3
    seed: int = 0


def certified_recipe(data="digits", seed=0):
    """The settings for a data set.

    For MNIST and sets like it a larger network, a large margin and `RandomAffine`, without which certified accuracy
    falls behind on images that the training has not seen.

    Args:
        data: Name of the data set, with or without configuration and version.
        seed: Integer.

    Returns:
        A `CertifiedRecipe`; that of the digits for any other set, which is a start and no more.

    Example:

    >>> certified_recipe("mnist").widths
    (512, 512, 256, 128)
    """
    if data.partition(":")[0].partition("/")[0] in _LIKE_MNIST:
        return CertifiedRecipe(
            widths=(512, 512, 256, 128),
            margin=4.0,
            learning_rate=7e-3,
            warmup=0.05,
            epochs=600,
            batch_size=1024,
            augmentation=RandomAffine(),
            watched_radius=1.0,
            seed=seed,
        )
    return CertifiedRecipe(seed=seed)


def train_certified(images, labels, class_names, recipe=None, callbacks=()):
    """Trains a certified classifier on arrays.

    Args:
        images: Floats `[N, H, W, C]` in [0, 1].
        labels: Class ids `[N]`.
        class_names: C names.
        recipe: `CertifiedRecipe`.
        callbacks: Keras callbacks.

    Returns:
        A trained `ClustrClassifier`.

    Raises:
        ValueError: If the data is empty, or images or labels are out of range.

    Example:

    >>> (x_train, y_train), _ = load_digits()
    >>> model = train_certified(x_train, y_train, class_names="0123456789")
    """
    recipe = recipe or CertifiedRecipe()
    keras.utils.set_random_seed(recipe.seed)
    model = ClustrClassifier(
        lipschitz_mlp(images.shape[1:], recipe.widths),
        num_classes=len(class_names),
        clusters_per_class=recipe.clusters_per_class,
        class_names=list(class_names),
        temperature=recipe.temperature,
    )
    batches = ImageBatches(Split(images, np.asarray(labels)), recipe.batch_size, recipe.augmentation, seed=recipe.seed)
    model.compile(
        keras.optimizers.Adam(_schedule(recipe, recipe.epochs * len(batches))),
        CertifiedMarginLoss(recipe.temperature, recipe.margin),
        metrics=["accuracy", CertifiedAccuracy(recipe.watched_radius)],
    )
    model.fit(batches, epochs=recipe.epochs, verbose=0, callbacks=list(callbacks))
    return model


def _schedule(recipe, steps):
    """Up to the peak on a straight line, down to 0 along a cosine."""
    rising = round(recipe.warmup * steps)
    if not rising:
        return keras.optimizers.schedules.CosineDecay(recipe.learning_rate, max(1, steps))
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - rising), warmup_target=recipe.learning_rate, warmup_steps=rising
    )
