"""Certified training: a Lipschitz backbone under the certified margin loss."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np

from clustr_keras.backbones import lipschitz_convnet, lipschitz_mlp, lipschitz_resnet, mirror_averaged
from clustr_keras.classifier import ClustrClassifier
from clustr_keras.data import CropAndFlip, RandomAffine, Split
from clustr_keras.data.image_dataset import base_name
from clustr_keras.lipschitz import orthogonal_optimizer
from clustr_keras.losses import CertifiedMarginLoss
from clustr_keras.metrics import CertifiedAccuracy
from clustr_keras.training.plain_batches import plain_batches
from clustr_keras.training.resumed_schedule import ResumedSchedule
from clustr_keras.types import ArrayLike, Floats

_BACKBONES = {make.__name__: make for make in (lipschitz_mlp, lipschitz_convnet, lipschitz_resnet)}


@dataclasses.dataclass(frozen=True)
class CertifiedRecipe:
    """Settings of certified training; the defaults are those of the bundled digits.

    Args:
        backbone: `"lipschitz_mlp"`, `"lipschitz_convnet"` or `"lipschitz_resnet"`.
        sizes: Dict of what that function takes besides the shape of the images, such as `{"widths": (256, 64)}`; its
            defaults for the resolution of the images otherwise.
        clusters_per_class: Integer K.
        temperature, margin: Of the `CertifiedMarginLoss`; the margin is several times the radius aimed at.
        learning_rate: Peak of the learning rate of `lipschitz.orthogonal_optimizer`; it falls to 0 along a cosine.
        warmup: Share of all steps in which the learning rate rises to its peak.
        epochs, batch_size: As for `fit`.
        augmentation: What the training images go through, called with a batch and a random generator, or `None`.
        mirror_averaged: Whether the trained classifier goes by the mean over an image and its mirror image, see
            `backbones.mirror_averaged`: for an augmentation with mirror images, at twice the inference.
        watched_radius: Radius of the certified accuracy that is shown while training.
        radii: Radii of the certified accuracies that are told of the trained model.
        seed: Integer, of the weights and the order of the data.
    """

    backbone: str = "lipschitz_mlp"
    sizes: dict[str, Any] = dataclasses.field(default_factory=dict)
    clusters_per_class: int = 1
    temperature: float = 4.0
    margin: float = 0.8
    learning_rate: float = 2e-2
    warmup: float = 0.0
    epochs: int = 60
    batch_size: int = 128
    augmentation: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None
    mirror_averaged: bool = False
    watched_radius: float = 0.3
    radii: tuple[float, ...] = (0.3, 0.5)
    seed: int = 0


_RECIPES = {
    "digits": CertifiedRecipe(),
    "mnist": CertifiedRecipe(
        margin=4.0,
        learning_rate=4e-2,
        warmup=0.05,
        epochs=600,
        batch_size=2048,
        augmentation=RandomAffine(shift=1.0, rotation=12.0, scale=0.1, shear=0.15),
        watched_radius=1.0,
        radii=(0.3, 1.0, 1.58),
    ),
    "cifar10": CertifiedRecipe(
        backbone="lipschitz_convnet",
        temperature=8.0,
        margin=1.25,
        warmup=0.05,
        epochs=300,
        batch_size=512,
        augmentation=CropAndFlip(fill_mode="reflect"),
        mirror_averaged=True,
        watched_radius=36 / 255,
        radii=(36 / 255, 72 / 255, 108 / 255),
    ),
}
_SET_OF_RECIPE = {
    "digits": "digits",
    **dict.fromkeys(("mnist", "mnist10k", "fashion_mnist", "kmnist"), "mnist"),
    **dict.fromkeys(("cifar10", "cifar100"), "cifar10"),
}


def certified_recipe(
    data: str = "digits", seed: int = 0, image_shape: tuple[int, ...] | None = None
) -> CertifiedRecipe:
    """The settings for a data set.

    For MNIST and sets like it a large margin and `RandomAffine`, without which certified accuracy falls behind on
    images that the training has not seen; for CIFAR a convolutional network and crops of images that are reflected at
    their edges: black borders cost it two points at 36/255. Any other data set gets those of the set that its images
    are like, which is a start and no more, without mirror images, since these may be of another class.

    Args:
        data: Name of the data set, with or without configuration and version.
        seed: Integer.
        image_shape: `(H, W, C)`, for data sets that have no settings of their own; these get the digits' without.

    Returns:
        A `CertifiedRecipe`.

    Example:

    >>> certified_recipe("mnist").margin
    4.0
    >>> certified_recipe("photos", image_shape=(64, 64, 3)).backbone
    'lipschitz_convnet'
    """
    own = _SET_OF_RECIPE.get(base_name(data))
    like = own or ("digits" if image_shape is None else _set_like(image_shape))
    recipe = dataclasses.replace(_RECIPES[like], seed=seed)
    if own is None and isinstance(recipe.augmentation, CropAndFlip):
        cropped = dataclasses.replace(recipe.augmentation, flip=False)
        return dataclasses.replace(recipe, augmentation=cropped, mirror_averaged=False)
    return recipe


def borrowed_settings(data: str, image_shape: tuple[int, ...]) -> str | None:
    """The data set whose settings `certified_recipe` takes for another one, `None` for a set that has its own."""
    return None if base_name(data) in _SET_OF_RECIPE else _set_like(image_shape)


def _set_like(image_shape):
    """`"digits"`, `"mnist"` or `"cifar10"`."""
    height, width, channels = image_shape
    if min(height, width) < 16:
        return "digits"
    # The convolutional network halves the images twice.
    return "cifar10" if channels > 1 and height % 4 == width % 4 == 0 else "mnist"


def train_certified(
    images: Floats,
    labels: ArrayLike,
    class_names: Sequence[str],
    recipe: CertifiedRecipe | None = None,
    callbacks: Iterable[keras.callbacks.Callback] = (),
) -> ClustrClassifier:
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
        ValueError: If the data is empty, images or labels are out of range, or there is no backbone of that name.

    Example:

    >>> (x_train, y_train), _ = load_digits()
    >>> model = train_certified(x_train, y_train, class_names="0123456789")
    """
    recipe = recipe or CertifiedRecipe()
    model = make_certified(images.shape[1:], class_names, recipe)
    return finished(fit_certified(model, images, labels, recipe, callbacks), recipe)


def make_certified(
    image_shape: tuple[int, ...], class_names: Sequence[str], recipe: CertifiedRecipe
) -> ClustrClassifier:
    """An untrained classifier on a Lipschitz backbone.

    Args:
        image_shape: `(H, W, C)`.
        class_names: C names.
        recipe: `CertifiedRecipe`.

    Returns:
        A `ClustrClassifier`.

    Raises:
        ValueError: If there is no backbone of that name.
    """
    make = _BACKBONES.get(recipe.backbone)
    if make is None:
        raise ValueError(f"backbone must be one of {', '.join(sorted(_BACKBONES))}; got {recipe.backbone!r}.")
    keras.utils.set_random_seed(recipe.seed)
    return ClustrClassifier(
        make(image_shape, **recipe.sizes),
        num_classes=len(class_names),
        clusters_per_class=recipe.clusters_per_class,
        class_names=list(class_names),
        temperature=recipe.temperature,
    )


def fit_certified(
    model: ClustrClassifier,
    images: Floats,
    labels: ArrayLike,
    recipe: CertifiedRecipe,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    initial_epoch: int = 0,
) -> ClustrClassifier:
    """Compiles a classifier and trains it on arrays: the second part of `train_certified`, which see.

    From `initial_epoch` on, if the epochs before it have been trained: learning rate and batches are those of a
    training that was not interrupted, the optimizer's moments are not.
    """
    split = Split(images, np.asarray(labels))
    batches = plain_batches(split, recipe.batch_size, recipe.augmentation, recipe.seed)
    schedule = _schedule(recipe, recipe.epochs * len(batches))
    if initial_epoch:
        batches.epoch = initial_epoch
        schedule = ResumedSchedule(schedule, initial_epoch * len(batches))
    model.compile(
        orthogonal_optimizer(schedule),
        CertifiedMarginLoss(recipe.temperature, recipe.margin),
        metrics=["accuracy", CertifiedAccuracy(recipe.watched_radius)],
    )
    model.fit(batches, initial_epoch=initial_epoch, epochs=recipe.epochs, verbose=0, callbacks=list(callbacks))
    return model


def finished(model: ClustrClassifier, recipe: Any) -> ClustrClassifier:
    """What a trained classifier becomes by any recipe: itself, or `with_mirror_averages` of it."""
    return with_mirror_averages(model) if getattr(recipe, "mirror_averaged", False) else model


def with_mirror_averages(model: ClustrClassifier) -> ClustrClassifier:
    """A classifier with the weights of a trained one that goes by the mean over an image and its mirror image.

    See `backbones.mirror_averaged`: it answers both alike and proves more where training had both, at twice the
    inference.

    Args:
        model: `ClustrClassifier`. Its backbone is shared, its centers are copied.

    Returns:
        A `ClustrClassifier`, compiled as the given one is.

    Example:

    >>> model.fit(batches, epochs=300)
    >>> with_mirror_averages(model).certify(x_test)
    """
    averaged = ClustrClassifier(
        mirror_averaged(model.backbone),
        model.num_classes,
        model.clusters_per_class,
        model.class_names,
        model.head.temperature,
        model.head.trainable,
    )
    averaged.head.centers.assign(model.head.centers)
    averaged.head.variance.assign(model.head.variance)
    averaged.training_step.assign(model.training_step)
    if model.compiled:
        averaged.compile_from_config(model.get_compile_config())
    return averaged


def _schedule(recipe, steps):
    """Up to the peak on a straight line, down to 0 along a cosine."""
    rising = round(recipe.warmup * steps)
    if not rising:
        return keras.optimizers.schedules.CosineDecay(recipe.learning_rate, max(1, steps))
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - rising), warmup_target=recipe.learning_rate, warmup_steps=rising
    )
