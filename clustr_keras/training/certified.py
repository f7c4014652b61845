"""Certified training: a Lipschitz backbone under the certified margin loss."""

import dataclasses

import keras

from clustr_keras.backbones import lipschitz_mlp
from clustr_keras.classifier import ClustrClassifier
from clustr_keras.losses import CertifiedMarginLoss
from clustr_keras.metrics import CertifiedAccuracy


@dataclasses.dataclass(frozen=True)
class CertifiedRecipe:
    """Settings of certified training; the defaults are those of the bundled digits.

    Args:
        widths: Output sizes of the backbone's layers.
        clusters_per_class: Integer K.
        temperature, margin: Of the `CertifiedMarginLoss`; the margin is about twice the radius aimed at.
        learning_rate: Peak of Adam's learning rate, which falls to 0 along a cosine.
        epochs, batch_size: As for `fit`.
        watched_radius: Radius of the certified accuracy that is shown while training.
        seed: Integer, of the weights and the order of the data.
    """

    widths: tuple[int, ...] = (256, 256, 64)
    clusters_per_class: int = 1
    temperature: float = 4.0
    margin: float = 0.8
    learning_rate: float = 5e-3
    epochs: int = 60
    batch_size: int = 64
    watched_radius: float = 0.3
    seed: int = 0


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
    steps = recipe.epochs * -(-len(images) // recipe.batch_size)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(recipe.learning_rate, max(1, steps))),
        CertifiedMarginLoss(recipe.temperature, recipe.margin),
        metrics=["accuracy", CertifiedAccuracy(recipe.watched_radius)],
    )
    model.fit(images, labels, batch_size=recipe.batch_size, epochs=recipe.epochs, verbose=0, callbacks=list(callbacks))
    return model
