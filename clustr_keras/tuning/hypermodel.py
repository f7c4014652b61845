"""The recipes with their settings left open."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import keras
import keras_tuner
import numpy as np

from clustr_keras.attacks import ProjectedGradientDescent
from clustr_keras.classifier import ClustrClassifier
from clustr_keras.data import ImageDataset, Split, as_floats
from clustr_keras.training.certified import (
    CertifiedRecipe,
    certified_recipe,
    finished,
    fit_certified,
    make_certified,
)
from clustr_keras.training.recipes import PAPER_EPS, Recipe, make_classifier, train
from clustr_keras.types import Floats
from clustr_keras.whole_file import whole_file

# Validation images that are attacked: PGD on all of them would take longer than a short training.
_ATTACKED = 500


class ClustrHyperModel(keras_tuner.HyperModel):
    """A recipe whose settings KerasTuner chooses, trained and judged on a data set.

    Part of the training images is held back for validation, the same part in all trials and processes. After the last
    epoch of a trial these are measured on it: `val_accuracy`; `val_certified_accuracy` at `radius`, and the mean
    `val_certified_radius` of the certified recipe, float32 rounding included; `val_robust_accuracy` of the others,
    under PGD in the l_inf ball of `eps`; and the mean of clean accuracy and the other one. (Where the
    backbone's rounding has no analysis nothing is certified: trials are then compared by their radii in real
    arithmetic.)

    Certified training leaves open the size of the backbone (`width`, `depth`), the `clusters_per_class`, and `margin`,
    `temperature` and `learning_rate` around those of the recipe. The paper's training leaves open `clusters_per_class`
    (K), `clusters_per_batch` (m, as far as there are so many clusters), `examples_per_cluster` (d), `alpha`,
    `learning_rate`, and with QTRADES its weight, `consistency_weight` (lambda).

    A recipe's `pretraining` is trained once, as it stands, and all trials go on from it: what varies is the training
    after it, and K stays that of the pretraining. In a subclass that varies the pretraining too, each trial trains its
    own.

    Args:
        dataset: `ImageDataset`; its test images are never looked at.
        recipe: `CertifiedRecipe` or `Recipe` to start from; `certified_recipe` of the data set by default.
        radius: Float, l_2, where certified accuracy counts; the recipe's `watched_radius` by default.
        eps: Float, l_inf, of the attack.
        validation_share: Share of the training images that is held back.
        pretrained: `.npz` file where the weights after the recipe's `pretraining` are kept, for other processes and a
            later start; by default they are kept in memory.

    Raises:
        ValueError: If the share is not in (0, 1), or leaves one side without images.

    Example:

    >>> hypermodel = ClustrHyperModel(load("digits"))
    >>> tuner = keras_tuner.RandomSearch(hypermodel, make_objective("certified"), max_trials=6, directory="runs/tune")
    >>> tuner.search(epochs=20)
    """

    def __init__(
        self,
        dataset: ImageDataset,
        recipe: CertifiedRecipe | Recipe | None = None,
        radius: float | None = None,
        eps: float = PAPER_EPS,
        validation_share: float = 0.2,
        pretrained: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(name=f"clustr_{dataset.name.partition(':')[0].replace('/', '_')}")
        self.recipe = certified_recipe(dataset.name, image_shape=dataset.image_shape) if recipe is None else recipe
        self.is_certified = isinstance(self.recipe, CertifiedRecipe)
        watched = self.recipe.watched_radius if isinstance(self.recipe, CertifiedRecipe) else 0.0
        self.radius = watched if radius is None else radius
        self.eps = eps
        self.whole = dataset
        self.dataset = _held_back(dataset, validation_share)
        self._pretrained_file = None if pretrained is None else pathlib.Path(pretrained)
        self._pretrained_weights: list[Floats] | None = None

    def build(self, hp: keras_tuner.HyperParameters) -> ClustrClassifier:
        """An untrained classifier with settings that KerasTuner chose, as every `keras_tuner.HyperModel` has it."""
        recipe = self.recipe_of(hp)
        if isinstance(recipe, CertifiedRecipe):
            return make_certified(self.dataset.image_shape, self.dataset.class_names, recipe)
        keras.utils.set_random_seed(recipe.seed)
        return make_classifier(self.dataset, recipe)

    def fit(
        self,
        hp: keras_tuner.HyperParameters,
        model: ClustrClassifier,
        epochs: int | None = None,
        initial_epoch: int = 0,
        callbacks: Iterable[keras.callbacks.Callback] = (),
        **kwargs: Any,
    ) -> dict[str, float]:
        """Trains a classifier that `build` made, and measures it.

        Args:
            hp: The `HyperParameters`.
            model: The `ClustrClassifier`.
            epochs: Integer, the recipe's number by default.
            initial_epoch: Integer, of a trial that Hyperband goes on with: so many are not trained again, and the
                learning rate goes on in the middle of its schedule over all `epochs`. The optimizer's moments start
                anew, since KerasTuner keeps the weights alone.
            callbacks: Keras callbacks.
            **kwargs: For `fit`, of which none is known here.

        Returns:
            A dict, metric -> float.

        Raises:
            ValueError: For an unknown argument.
        """
        kwargs.pop("verbose", None)  # KerasTuner's own display says how it goes
        if kwargs:
            raise ValueError(f"search takes epochs, callbacks and verbose; got {', '.join(kwargs)}.")
        recipe = self.recipe_of(hp)
        recipe = dataclasses.replace(recipe, epochs=epochs or recipe.epochs)
        pretraining = _pretraining_of(recipe)
        if pretraining is not None and initial_epoch == 0:
            _set_weights(model, self._pretrained(pretraining))
        self.train(model, self.dataset, recipe, callbacks, initial_epoch)
        return self.measure(model)

    def train(
        self,
        model: ClustrClassifier,
        dataset: ImageDataset,
        recipe: CertifiedRecipe | Recipe,
        callbacks: Iterable[keras.callbacks.Callback] = (),
        initial_epoch: int = 0,
    ) -> ClustrClassifier:
        """Trains a classifier on the training images of a data set, without the recipe's `pretraining`."""
        keras.utils.set_random_seed(recipe.seed)
        if isinstance(recipe, CertifiedRecipe):
            images, labels = as_floats(dataset.train.images), dataset.train.labels
            return fit_certified(model, images, labels, recipe, callbacks, initial_epoch)
        recipe = dataclasses.replace(recipe, pretraining=None)
        return train(dataset, recipe, callbacks=callbacks, model=model, initial_epoch=initial_epoch)

    def _pretrained(self, pretraining: Recipe) -> list[Floats]:
        """The weights after a pretraining, of which the one that trials share is done once."""
        if pretraining != _pretraining_of(self.recipe):
            return _weights_of(train(self.dataset, pretraining))
        file = self._pretrained_file
        if self._pretrained_weights is None and file is not None and file.exists():
            with np.load(file) as saved:
                self._pretrained_weights = [saved[name] for name in saved.files]
        elif self._pretrained_weights is None:
            self._pretrained_weights = _weights_of(train(self.dataset, pretraining))
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(file) as own:  # several workers may be at it
                    np.savez(own, *self._pretrained_weights)
        return self._pretrained_weights

    def retrain(
        self,
        hp: keras_tuner.HyperParameters,
        epochs: int | None = None,
        callbacks: Iterable[keras.callbacks.Callback] = (),
    ) -> ClustrClassifier:
        """Trains a fresh classifier on all training images, by the whole recipe, `pretraining` and all.

        Args:
            hp: `HyperParameters`, those of the best trial for example.
            epochs: Integer, the recipe's number by default.
            callbacks: Keras callbacks.

        Returns:
            The `ClustrClassifier`.
        """
        recipe = self.recipe_of(hp)
        recipe = recipe if epochs is None else dataclasses.replace(recipe, epochs=epochs)
        model, pretraining = self.build(hp), _pretraining_of(recipe)
        if pretraining is not None:
            _set_weights(model, _weights_of(train(self.whole, pretraining)))
        self.train(model, self.whole, recipe, callbacks)
        return finished(model, recipe)

    def measure(self, model: ClustrClassifier) -> dict[str, float]:
        """What counts of a trained classifier, on the validation images: a dict, metric -> float."""
        images, labels = as_floats(self.dataset.test.images), self.dataset.test.labels
        if not self.is_certified:
            return self._measure_under_attack(model, images, labels)
        certificate = finished(model, self.recipe).certify(images)
        radius = certificate.proved_radius
        is_right = certificate.class_ids == labels
        clean, certified = float(is_right.mean()), float((is_right & (radius >= self.radius)).mean())
        return {
            "val_accuracy": clean,
            "val_certified_accuracy": certified,
            "val_clean_and_certified_accuracy": 0.5 * (clean + certified),
            "val_certified_radius": float(np.where(is_right, radius, 0.0).mean()),
        }

    def _measure_under_attack(self, model, images, labels):
        is_right = model.predict(images, batch_size=250, verbose=0).argmax(axis=-1) == labels
        attacked = slice(0, _ATTACKED)  # the order is a random one
        attack = ProjectedGradientDescent(lambda x: model(x, training=False), "l_inf", steps=20, restarts=1)
        flips = attack(images[attacked], labels[attacked], self.eps).is_flipped
        clean, robust = float(is_right.mean()), float((is_right[attacked] & ~flips).mean())
        return {
            "val_accuracy": clean,
            "val_robust_accuracy": robust,
            "val_clean_and_robust_accuracy": 0.5 * (clean + robust),
        }

    def recipe_of(self, hp: keras_tuner.HyperParameters) -> CertifiedRecipe | Recipe:
        """The recipe with the settings that KerasTuner chose.

        Args:
            hp: `HyperParameters`.

        Returns:
            A recipe of the same class as `recipe`.
        """
        recipe = self.recipe
        if isinstance(recipe, CertifiedRecipe):
            return self._certified_recipe(hp, recipe)
        return _paper_recipe(hp, recipe, self.dataset.num_classes)

    def _certified_recipe(self, hp, recipe):
        return dataclasses.replace(
            recipe,
            sizes=self._sizes(hp),
            clusters_per_class=hp.Int("clusters_per_class", 1, 3),
            margin=_around(hp, "margin", recipe.margin, 4.0),
            temperature=_around(hp, "temperature", recipe.temperature, 4.0),
            learning_rate=_around(hp, "learning_rate", recipe.learning_rate, 4.0),
        )

    def _sizes(self, hp):
        if self.recipe.backbone == "lipschitz_mlp":
            width, depth = hp.Choice("width", [64, 128, 256, 512]), hp.Int("depth", 2, 4)
            return {"widths": (width,) * (depth - 1) + (width // 2,)}
        width, depth = hp.Choice("width", [16, 32, 64]), hp.Int("depth", 1, 2)
        stages = 1 if min(self.dataset.image_shape[:2]) < 28 else 2
        dense = (8 * width, 4 * width)
        if self.recipe.backbone == "lipschitz_convnet":
            return {"channels": tuple(width * 2**stage for stage in range(stages)), "depth": depth, "dense": dense}
        return {"width": width, "depths": (depth,) * stages, "dense": dense}


def _paper_recipe(hp, recipe, num_classes):
    chosen = {"learning_rate": _around(hp, "learning_rate", recipe.learning_rate, 10.0)}
    if recipe.magnet:
        clusters = recipe.clusters_per_class
        if recipe.pretraining is None:  # which has made the centers
            clusters = hp.Int("clusters_per_class", 1, 4)
        largest = (num_classes - 1) * clusters + 1
        chosen |= {
            "clusters_per_class": clusters,
            "clusters_per_batch": min(hp.Int("clusters_per_batch", 4, 16, step=4), largest),
            "examples_per_cluster": hp.Int("examples_per_cluster", 8, 32, step=8),
            "alpha": _around(hp, "alpha", recipe.alpha, 4.0),
        }
    if recipe.consistency is not None:
        weight = _around(hp, "consistency_weight", recipe.consistency.weight, 4.0)
        config = {**recipe.consistency.get_config(), "weight": weight}
        chosen["consistency"] = type(recipe.consistency).from_config(config)
    return dataclasses.replace(recipe, **chosen)


def _pretraining_of(recipe):
    return getattr(recipe, "pretraining", None)


def _weights_of(model):
    """Those of backbone and head: a trained classifier also has some that only its steps need."""
    return model.backbone.get_weights() + model.head.get_weights()


def _set_weights(model, weights):
    count = len(model.backbone.weights)
    model.backbone.set_weights(weights[:count])
    model.head.set_weights(weights[count:])


def _around(hp, name, value, factor):
    """A number between `value / factor` and `value * factor`, on a logarithmic scale."""
    return hp.Float(name, value / factor, value * factor, sampling="log", default=value)


def _held_back(dataset, share):
    """The data set with part of the training images in place of the test images."""
    count = round(share * len(dataset.train))
    if not 0 < share < 1 or not 0 < count < len(dataset.train):
        raise ValueError(
            f"validation_share must lie in (0, 1) and leave images on both sides; got {share} of {len(dataset.train)}."
        )
    # By itself, and not by the seed of a trial: all trials are judged on the same images.
    order = np.random.default_rng(0).permutation(len(dataset.train))
    held_back, rest = order[:count], np.sort(order[count:])
    images, labels = dataset.train.images, dataset.train.labels
    return ImageDataset(
        dataset.name,
        Split(images[rest], labels[rest]),
        Split(images[held_back], labels[held_back]),
        dataset.class_names,
    )
