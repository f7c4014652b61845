"""Free adversarial training: each backward pass serves the weights and the perturbation."""

from collections.abc import Callable
from typing import Any, Self

import keras
from keras import ops

from clustr_keras.backend import examples_of_replica, of_all_replicas
from clustr_keras.integers import checked_integer
from clustr_keras.types import Shape, Tensor


@keras.saving.register_keras_serializable(package="clustr_keras")
class FreeAdversarialTraining:
    """Trains on `x + delta`, each batch several times over, with `delta` following the gradient of the same loss.

    `delta` starts at 0, is carried from batch to batch by the place of an example in its batch, and moves by
    `eps * sign(gradient)` at each replay, cut to the ball. Each replay is a step of the optimizer, so that a user
    divides the number of epochs by `replays`. One backward pass gives both gradients.

    Args:
        batch_size: Integer, the size of a batch; a smaller one uses the first places.
        eps: Float, radius of the l_inf ball, pixels in [0, 1].
        replays: Integer, how often each batch is trained on.

    Example:

    >>> model.compile("adam", free=FreeAdversarialTraining(batch_size=240))

    Reference:
        Shafahi et al., Adversarial Training for Free!, NeurIPS 2019.
    """

    def __init__(self, batch_size: int, eps: float = 8 / 255, replays: int = 8) -> None:
        if not 0 < eps <= 1:
            raise ValueError(f"eps must lie in (0, 1], for pixels in [0, 1]; got {eps}.")
        self.batch_size = checked_integer("batch_size", batch_size, 1)
        self.eps = float(eps)
        self.replays = checked_integer("replays", replays, 1)

    def build(self, image_shape: Shape) -> None:
        """Makes `delta`, `[batch_size, H, W, C]`."""
        if keras.backend.backend() != "tensorflow":
            raise NotImplementedError(
                "free adversarial training needs the TensorFlow backend: only its tape gives both gradients of a step. "
                "Train with QTRADES, or set KERAS_BACKEND=tensorflow."
            )
        self.delta = keras.Variable(
            ops.zeros((self.batch_size, *image_shape)),
            trainable=False,
            dtype="float32",
            name="delta",
            aggregation="only_first_replica",
        )

    def train_step(
        self, images: Tensor, step: Callable[[Tensor], dict[str, Tensor]], loss: Callable[[], Tensor]
    ) -> dict[str, Tensor]:
        """Makes all replays of one batch.

        Args:
            images: Floats `[B, H, W, C]` in [0, 1].
            step: From perturbed images to the logs of a training step on them.
            loss: Without arguments, the loss tensor of the last step.

        Returns:
            The logs of the last replay.
        """
        import tensorflow as tf

        images = ops.cast(images, "float32")
        count = ops.shape(images)[0]
        if isinstance(count, int) and count > self.batch_size:
            raise ValueError(
                f"FreeAdversarialTraining(batch_size={self.batch_size}) got a batch of {count} examples, more than it "
                f"has perturbations for. Pass batch_size={count}."
            )
        places = examples_of_replica(count)
        for _ in range(self.replays):
            delta = ops.take(self.delta, places, axis=0)
            perturbed = ops.clip(images + delta, 0.0, 1.0)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(perturbed)
                logs = step(perturbed)
                value = loss()
            direction = ops.sign(tape.gradient(value, perturbed))
            direction = ops.where(ops.isfinite(direction), direction, 0.0)
            moved = of_all_replicas(ops.clip(delta + self.eps * direction, -self.eps, self.eps))
            self.delta.assign(ops.concatenate([moved, self.delta[ops.shape(moved)[0] :]], axis=0))
        return logs

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"batch_size": self.batch_size, "eps": self.eps, "replays": self.replays}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes the same from what `get_config` returned."""
        return cls(**config)
