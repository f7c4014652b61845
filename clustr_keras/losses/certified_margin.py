"""Cross-entropy of distance logits with a margin."""

from typing import Any

import keras
from keras import ops

from clustr_keras.types import Tensor


@keras.saving.register_keras_serializable(package="clustr_keras")
class CertifiedMarginLoss(keras.losses.Loss):
    """Cross-entropy of distance logits with a margin, `CE(softmax(T (logits - m onehot(y))), y)`.

    The distance logit of the true class is the radius within which the answer stays right. Asking for it to exceed
    the others by the margin `m` (input units) asks for a radius of about `m / 2`, since the runner-up's logit is about
    the winner's with the opposite sign. The temperature T says how soon an example that has its margin stops counting.

    Either may follow a schedule over the training steps, such as a margin that rises from 0.

    Args:
        temperature: Positive float T, per input unit, or a `keras.optimizers.schedules.LearningRateSchedule` of it.
        margin: Float m, input units, or a schedule of it.
        reduction: As for all Keras losses.
        name: Name of the loss.

    Attributes:
        acts_on: `"logits"`.
        step: Variable that schedules go by. `ClustrClassifier.compile` sets it to the model's own; for any other model
            set it to `model.optimizer.iterations`.

    Input shape:
        `y_true`: ints `[B]` or `[B, 1]`. `y_pred`: distance logits `[B, C]`.

    Raises:
        ValueError: If `temperature` is not positive or `margin` is negative, or there is a schedule and no `step`.

    Example:

    >>> CertifiedMarginLoss(temperature=8.0, margin=0.5)([0], [[1.0, -1.0]])
    0.0000061
    >>> rising = keras.optimizers.schedules.PolynomialDecay(0.0, decay_steps=1000, end_learning_rate=0.8)
    >>> model.compile(lipschitz.orthogonal_optimizer(), CertifiedMarginLoss(temperature=4.0, margin=rising))

    Reference:
        Tsuzuku, Sato and Sugiyama, Lipschitz-Margin Training, NeurIPS 2018, for margins of Lipschitz networks.
    """

    acts_on = "logits"

    def __init__(
        self,
        temperature: float | keras.optimizers.schedules.LearningRateSchedule | dict[str, Any] = 8.0,
        margin: float | keras.optimizers.schedules.LearningRateSchedule | dict[str, Any] = 0.5,
        reduction: str = "sum_over_batch_size",
        name: str = "certified_margin_loss",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, reduction=reduction, **kwargs)
        self.temperature, self.margin = _number_or_schedule(temperature), _number_or_schedule(margin)
        if isinstance(self.temperature, float) and not self.temperature > 0:
            raise ValueError(f"temperature must be positive; got {temperature}.")
        if isinstance(self.margin, float) and not self.margin >= 0:
            raise ValueError(f"margin must be at least 0; got {margin}.")
        self.step: keras.Variable | None = None

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Computes the loss per example, `[B]`."""
        y_pred = ops.convert_to_tensor(y_pred)
        labels = ops.cast(ops.reshape(y_true, (-1,)), "int32")
        asked = self._now(self.margin) * ops.one_hot(labels, y_pred.shape[-1], dtype=y_pred.dtype)
        logits = self._now(self.temperature) * (y_pred - asked)
        return ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "temperature": _serialized(self.temperature),
            "margin": _serialized(self.margin),
        }

    def _now(self, value):
        if isinstance(value, float):
            return value
        if self.step is None:
            raise ValueError(
                "a schedule of the temperature or margin goes by the training step, and this loss has none. Compile a "
                "ClustrClassifier with it, or set loss.step = model.optimizer.iterations."
            )
        return value(self.step)


def _number_or_schedule(value):
    """A float, or a schedule; either may come from a configuration."""
    if isinstance(value, dict):
        value = keras.optimizers.schedules.deserialize(value)
    return value if isinstance(value, keras.optimizers.schedules.LearningRateSchedule) else float(value)


def _serialized(value):
    return value if isinstance(value, float) else keras.optimizers.schedules.serialize(value)
