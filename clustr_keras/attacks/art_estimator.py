"""What ART's attacks need of a classifier, on compiled functions. Needs the extra `autoattack`."""

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf
from art.attacks.evasion import AutoProjectedGradientDescent
from art.estimators.classification.classifier import ClassifierMixin
from art.estimators.estimator import BaseEstimator, LossGradientsMixin, NeuralNetworkMixin

from clustr_keras.attacks.attack import AttackLoss, Logits
from clustr_keras.attacks.batches import in_full_batches
from clustr_keras.attacks.steps import compiled, input_gradient
from clustr_keras.types import Floats


class ArtEstimator(ClassifierMixin, LossGradientsMixin, NeuralNetworkMixin, BaseEstimator):
    """A classifier with one loss, as ART's attacks see it.

    ART's own wrapper of TensorFlow models calls them eagerly, and computes the difference of logits ratio example by
    example.

    Args:
        logits: Function from images `[B, H, W, C]` to logits `[B, classes]`.
        num_classes: Integer.
        image_shape: `(H, W, C)`.
        loss: `loss(labels, logits)`, for example `attacks.losses.dlr`.
        batch_size: Integer, most images in a batch; see `full_batches`.
    """

    def __init__(
        self, logits: Logits, num_classes: int, image_shape: Sequence[int], loss: AttackLoss, batch_size: int
    ) -> None:
        super().__init__(model=logits, clip_values=(0.0, 1.0), channels_first=False)
        self.nb_classes = num_classes
        self._input_shape = tuple(image_shape)
        self.filled_up_to = batch_size

        @compiled
        def losses(x, labels):
            return loss(labels, logits(x))

        @compiled
        def gradient(x, labels):
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = loss(labels, logits(x))
            return input_gradient(value, x, tape)

        self._functions = {
            "logits": compiled(lambda x, labels: logits(x)),
            "losses": losses,
            "gradient": gradient,
        }

    @property
    def input_shape(self) -> tuple[int, ...]:
        """`(H, W, C)`."""
        return self._input_shape

    def predict(self, x: Floats, batch_size: int = 128, **kwargs: Any) -> Floats:
        """Logits `[B, classes]`."""
        return self._in_batches("logits", x, np.zeros(len(x), "int64"))

    def loss_gradient(self, x: Floats, y: Floats, **kwargs: Any) -> Floats:
        """Gradient of the sum of the losses; `y` is one-hot."""
        return self._in_batches("gradient", x, np.argmax(y, axis=-1))

    def compute_loss(self, x: Floats, y: Floats, reduction: str = "none", **kwargs: Any) -> Floats:
        """Loss of each example, `[B]`; `y` is one-hot."""
        return self._in_batches("losses", x, np.argmax(y, axis=-1))

    def _in_batches(self, name, x, labels):
        return in_full_batches(self._functions[name], x, labels, self.filled_up_to)

    def fit(self, x: Floats, y: Floats, **kwargs: Any) -> NoReturn:
        """Not for training."""
        raise NotImplementedError("attacks do not train.")

    def get_activations(self, x: Floats, layer: int | str, batch_size: int, framework: bool = False) -> NoReturn:
        """Not asked for by the attacks."""
        raise NotImplementedError("the attacks need no activations.")


class TargetedApgd(AutoProjectedGradientDescent):
    """APGD towards one other class after the other, those with the largest logits first.

    Args:
        targets: Integer, number of targets.
        **kwargs: As for ART's `AutoProjectedGradientDescent`.
    """

    def __init__(self, targets: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.targets = targets

    def generate(self, x: Floats, y: Floats, **kwargs: Any) -> Floats:
        """Attacks images away from one-hot labels `y`."""
        best, labels = x.copy(), np.argmax(y, axis=-1)
        logits = self.estimator.predict(x)
        logits[np.arange(len(x)), labels] = -np.inf
        ranked = np.argsort(-logits, axis=-1)
        left = np.arange(len(x))
        for rank in range(self.targets):
            if len(left) == 0:
                break
            targets = np.eye(self.estimator.nb_classes, dtype="float32")[ranked[left, rank]]
            self.targeted = True
            attempt = super().generate(x[left], targets)
            self.targeted = False
            is_flipped = self.estimator.predict(attempt).argmax(axis=-1) != labels[left]
            best[left[is_flipped]] = attempt[is_flipped]
            left = left[~is_flipped]
        return best
