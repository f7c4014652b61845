"""Metrics that read certified radii off distance logits.

Distance logits hold radii in real arithmetic, of the Lipschitz bound that the head holds at that moment; the rounding
slack of float32 is subtracted by `ClustrClassifier.certify`.
"""

from typing import Any

import keras
from keras import ops


def _radius_of_label(y_true, y_pred):
    """The label's distance logit: at least 0 where the prediction is right, and then the radius."""
    labels = ops.cast(ops.reshape(y_true, (-1, 1)), "int32")
    return ops.take_along_axis(ops.convert_to_tensor(y_pred), labels, axis=-1)[:, 0]


@keras.saving.register_keras_serializable(package="clustr_keras")
class CertifiedRadius(keras.metrics.MeanMetricWrapper):
    """Mean certified radius of distance logits, with 0 for an example that is classified wrongly.

    Args:
        name, dtype: As for all Keras metrics.

    Input shape:
        `y_true`: ints `[B]` or `[B, 1]`. `y_pred`: distance logits `[B, C]`.

    Example:

    >>> CertifiedRadius()([0, 1], [[1.0, -1.0], [0.5, -0.5]])
    0.5
    """

    def __init__(self, name: str = "certified_radius", dtype: str | None = None) -> None:
        super().__init__(fn=lambda y, logits: ops.maximum(_radius_of_label(y, logits), 0.0), name=name, dtype=dtype)
        self._direction = "up"

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"name": self.name, "dtype": self.dtype}


@keras.saving.register_keras_serializable(package="clustr_keras")
class CertifiedAccuracy(keras.metrics.MeanMetricWrapper):
    """Share of examples that are right and whose certified radius is at least `radius`: mean of `logit[y] >= radius`.

    Args:
        radius: Positive float, l_2, input units (pixels in [0, 1]).
        name, dtype: As for all Keras metrics. The name is `certified_accuracy` whatever the radius, so that it can be
            monitored as `val_certified_accuracy`; give names where several radii are watched.

    Input shape:
        `y_true`: ints `[B]` or `[B, 1]`. `y_pred`: distance logits `[B, C]`.

    Raises:
        ValueError: If `radius` is not positive.

    Example:

    >>> CertifiedAccuracy(0.75)([0, 0], [[1.0, -1.0], [0.5, -0.5]])
    0.5
    """

    def __init__(self, radius: float, name: str = "certified_accuracy", dtype: str | None = None) -> None:
        if not radius > 0:
            raise ValueError(f"radius must be positive; got {radius}. For a radius of 0 use plain accuracy.")
        self.radius = float(radius)
        super().__init__(fn=lambda y, logits: _radius_of_label(y, logits) >= self.radius, name=name, dtype=dtype)
        self._direction = "up"

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"name": self.name, "dtype": self.dtype, "radius": self.radius}
