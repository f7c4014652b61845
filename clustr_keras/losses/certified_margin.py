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

    Args:
        temperature: Positive float T, per input unit.
        margin: Float m, input units.
        reduction: As for all Keras losses.
        name: Name of the loss.

    Attributes:
        acts_on: `"logits"`.

    Input shape:
        `y_true`: ints `[B]` or `[B, 1]`. `y_pred`: distance logits `[B, C]`.

    Raises:
        ValueError: If `temperature` is not positive or `margin` is negative.

    Example:

    >>> CertifiedMarginLoss(temperature=8.0, margin=0.5)([0], [[1.0, -1.0]])
    0.0000061

    Reference:
        Tsuzuku, Sato and Sugiyama, Lipschitz-Margin Training, NeurIPS 2018, for margins of Lipschitz networks.
    """

    acts_on = "logits"

    def __init__(
        self,
        temperature: float = 8.0,
        margin: float = 0.5,
        reduction: str = "sum_over_batch_size",
        name: str = "certified_margin_loss",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, reduction=reduction, **kwargs)
        if not temperature > 0:
            raise ValueError(f"temperature must be positive; got {temperature}.")
        if not margin >= 0:
            raise ValueError(f"margin must be at least 0; got {margin}.")
        self.temperature = float(temperature)
        self.margin = float(margin)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Computes the loss per example, `[B]`."""
        y_pred = ops.convert_to_tensor(y_pred)
        labels = ops.cast(ops.reshape(y_true, (-1,)), "int32")
        asked = self.margin * ops.one_hot(labels, y_pred.shape[-1], dtype=y_pred.dtype)
        return ops.sparse_categorical_crossentropy(labels, self.temperature * (y_pred - asked), from_logits=True)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "temperature": self.temperature, "margin": self.margin}
