"""The magnet loss, of batches made of whole clusters and of plain batches.

    loss = max(0, -log(exp(-d^2 / (2 s^2) - alpha) / (sum_j exp(-d_j^2 / (2 s^2)) + e) + e)),    e = 1e-8

with `d` the distance of an example to its own cluster and `d_j` those to the clusters of other classes. All of it is
computed in log space.
"""

import math
from typing import Any

import keras
from keras import ops

from clustr_keras.types import ArrayLike, Tensor

_LOG_EPSILON = math.log(1e-8)

# Embeddings without any spread would divide by 0. The gradient holds 1 / s^4, which float32 still represents here.
_LEAST_VARIANCE = 1e-16


def magnet_losses(
    embeddings: Tensor | ArrayLike, classes: Tensor | ArrayLike, clusters: Tensor | ArrayLike, alpha: float = 12.5
) -> tuple[Tensor, Tensor]:
    """Magnet loss of each example of a batch whose clusters have their means in the batch itself.

    `loss_n = max(0, -log(exp(-||z_n - mu_n||^2 / (2 s^2) - alpha) / (sum_j exp(-||z_n - mu_j||^2 / (2 s^2)) + e) + e))`
    with `mu_n` the mean of the batch's rows of the cluster of `n`, `mu_j` those of the clusters of other classes,
    `s^2 = sum_n ||z_n - mu_n||^2 / (N - 1)` over all N rows, and `e = 1e-8`. The gradient flows through means and
    variance. The published constant `e` keeps a loss below 18.43: an example far out on the wrong side of all others
    has hardly any gradient.

    Where the batch holds one class only there are no other clusters, and the loss is
    `max(0, ||z_n - mu_n||^2 / (2 s^2) + alpha - 18.42)` up to `e`.

    Args:
        embeddings: Floats `[B, D]`, of any precision; cast to float32.
        classes: Ints `[B]`.
        clusters: Ints `[B]`, one number for each cluster, unique over all classes: `class * K + k`. The rows of a
            cluster may stand anywhere. -1 marks padding: such a row takes no part, whatever it holds.
        alpha: Float, how much farther than the own cluster the others shall be, in units of `2 s^2`.

    Returns:
        `(losses, variance)`: float32 `[B]`, 0 for padding, and the float32 scalar `s^2`.

    Example:

    >>> losses, variance = magnet_losses([[0.0], [2.0], [2.0], [4.0]], [0, 0, 1, 1], [0, 0, 2, 2], alpha=1.0)
    >>> losses, variance
    [0.0, 1.0, 1.0, 0.0], 1.333

    Reference:
        Rippel et al., Metric Learning with Adaptive Density Discrimination, ICLR 2016, equation 4.
    """
    embeddings = ops.cast(embeddings, "float32")
    classes, clusters = ops.cast(classes, "int32"), ops.cast(clusters, "int32")
    is_real = clusters >= 0
    count = ops.sum(ops.cast(is_real, "float32"))
    # Around their mean, the distances below do not cancel. They do not depend on it, so it needs no gradient.
    z = ops.where(is_real[:, None], embeddings, 0.0)
    z = ops.where(is_real[:, None], z - ops.stop_gradient(ops.sum(z, axis=0) / ops.maximum(count, 1.0)), 0.0)

    # Padding is a cluster of its own here, whose rows all lie at its mean.
    is_same = ops.cast(clusters[:, None] == clusters, "float32")  # [B, B]
    means = ops.matmul(is_same, z) / ops.sum(is_same, axis=-1, keepdims=True)
    own = ops.sum(ops.square(z - means), axis=-1)
    variance = ops.sum(own) / ops.maximum(count - 1.0, 1.0)

    # Every row holds the mean of its cluster: the first row of each cluster stands for it.
    is_first = is_real & (ops.argmax(is_same, axis=-1) == ops.arange(ops.shape(clusters)[0]))
    is_rival = is_first & (classes[:, None] != classes)
    squares = ops.sum(ops.square(z), axis=-1)[:, None] + ops.sum(ops.square(means), axis=-1)
    rivals = ops.maximum(squares - 2.0 * ops.matmul(z, ops.transpose(means)), 0.0)
    losses = _losses(own, rivals, is_rival, variance, alpha)
    return ops.where(is_real, losses, 0.0), variance


def center_magnet_losses(
    squared_distances: Tensor | ArrayLike, class_ids: Tensor | ArrayLike, alpha: float = 12.5
) -> tuple[Tensor, Tensor]:
    """Magnet loss of each example of a plain batch, with cluster centers in the place of the batch's means.

    The formula is that of `magnet_losses`; an example's own cluster is the nearest center of its class, all centers of
    other classes are rivals, and `s^2` is the sum of the squared distances to the own centers over `B - 1`.

    Args:
        squared_distances: Floats `[B, C, K]`, `||z - mu||^2`; cast to float32.
        class_ids: Ints `[B]`.
        alpha: Float, how much farther than the own center the others shall be, in units of `2 s^2`.

    Returns:
        `(losses, variance)`: float32 `[B]`, and the float32 scalar `s^2`.

    Example:

    >>> losses, variance = center_magnet_losses([[[1.0], [4.0]], [[4.0], [1.0]]], [0, 1], alpha=1.0)
    >>> losses, variance
    [0.25, 0.25], 2.0

    Reference:
        Rippel et al., Metric Learning with Adaptive Density Discrimination, ICLR 2016.
    """
    squared_distances = ops.cast(squared_distances, "float32")
    num_classes, clusters = squared_distances.shape[1:]
    is_own = ops.one_hot(class_ids, num_classes, dtype="bool")  # [B, C]
    own = ops.sum(ops.where(is_own, ops.min(squared_distances, axis=-1), 0.0), axis=-1)
    count = ops.cast(ops.shape(squared_distances)[0], "float32")
    variance = ops.sum(own) / ops.maximum(count - 1.0, 1.0)
    rivals = ops.reshape(squared_distances, (-1, num_classes * clusters))
    return _losses(own, rivals, ops.repeat(~is_own, clusters, axis=-1), variance, alpha), variance


def _losses(own, rivals, is_rival, variance, alpha):
    """The formula at the top, from squared distances `[B]` to the own and `[B, J]` to all other clusters."""
    scale = 0.5 / ops.maximum(variance, _LEAST_VARIANCE)
    votes = ops.where(is_rival, -scale * rivals, -float("inf"))
    epsilon = ops.full_like(votes[:, :1], _LOG_EPSILON)
    log_rivals = ops.logsumexp(ops.concatenate([votes, epsilon], axis=-1), axis=-1)
    log_ratio = -scale * own - alpha - log_rivals
    return ops.relu(-ops.logaddexp(log_ratio, _LOG_EPSILON))


class _AlphaLoss(keras.losses.Loss):
    """A loss whose only setting is alpha, computed in float32 whatever Keras' default."""

    def __init__(self, alpha: float, reduction: str, name: str) -> None:
        super().__init__(name=name, reduction=reduction, dtype="float32")
        if not 0 <= alpha < float("inf"):
            raise ValueError(f"alpha must be a number of at least 0; got {alpha}.")
        self.alpha = float(alpha)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "alpha": self.alpha}


@keras.saving.register_keras_serializable(package="clustr_keras")
class MagnetLoss(_AlphaLoss):
    """Magnet loss on embeddings: pulls examples to the mean of their cluster, away from the clusters of other classes.

    `loss = max(0, -log(exp(-d^2 / (2 s^2) - alpha) / sum_j exp(-d_j^2 / (2 s^2))))`, with `d` the distance to the mean
    of the own cluster, `d_j` those to the means of the clusters of other classes, and `s^2` the variance around the own
    means, all taken from the batch. `magnet_losses` has the details, and gives each loss and the variance.

    Rows marked as padding get weight 0, and the default reduction divides by the sum of the weights: the loss of a
    batch is the mean over its real rows, 0 if there is none. A `sample_weight` multiplies on top; 1 for real rows and 0
    for padding changes nothing. Under `"sum_over_batch_size"` padding counts in the divisor.

    Args:
        alpha: Float, at least 0: how much farther than the own cluster the others shall be, in units of `2 s^2`.
        reduction: As for all Keras losses.
        name: Name of the loss.

    Attributes:
        acts_on: `"embeddings"`.

    Input shape:
        `y_true`: ints `[B, 2]`, class and cluster, where the cluster of class c is numbered `c * K + k`, so that no two
        clusters share a number; -1 marks padding. `y_pred`: embeddings `[B, D]`, of any precision.

    Raises:
        ValueError: If `alpha` is negative or not finite, or `y_true` does not have two columns.

    Example:

    >>> MagnetLoss(alpha=1.0)([[0, 0], [0, 0], [1, 2], [1, 2]], [[0.0], [2.0], [2.0], [4.0]])
    0.5

    Reference:
        Rippel et al., Metric Learning with Adaptive Density Discrimination, ICLR 2016.
    """

    acts_on = "embeddings"

    def __init__(
        self, alpha: float = 12.5, reduction: str = "mean_with_sample_weight", name: str = "magnet_loss"
    ) -> None:
        super().__init__(alpha, reduction, name)

    def __call__(
        self, y_true: Tensor | ArrayLike, y_pred: Tensor | ArrayLike, sample_weight: Tensor | ArrayLike | None = None
    ) -> Tensor:
        """Computes the reduced loss; padding has weight 0."""
        y_true = ops.convert_to_tensor(y_true)
        if len(y_true.shape) != 2 or y_true.shape[-1] != 2:
            raise ValueError(
                f"MagnetLoss takes y_true [B, 2], class and cluster; got shape {tuple(y_true.shape)}. "
                "Batches with class ids alone are for CenterMagnetLoss."
            )
        weights = ops.cast(y_true[:, 1] >= 0, self.dtype)
        if sample_weight is not None:
            weights = weights * ops.reshape(ops.cast(sample_weight, self.dtype), (-1,))
        return super().__call__(y_true, y_pred, weights)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Computes the loss per example, `[B]`."""
        return magnet_losses(y_pred, y_true[:, 0], y_true[:, 1], self.alpha)[0]


@keras.saving.register_keras_serializable(package="clustr_keras")
class CenterMagnetLoss(_AlphaLoss):
    """Magnet loss of plain batches, on the squared distances to the head's cluster centers.

    `loss = max(0, -log(exp(-d^2 / (2 s^2) - alpha) / sum_j exp(-d_j^2 / (2 s^2))))`, with `d` the distance to the
    nearest center of the own class, `d_j` those to all centers of other classes, and `s^2` the batch's variance around
    the own centers. `center_magnet_losses` has the details, and gives each loss and the variance.

    Args:
        alpha: Float, at least 0: how much farther than the own center the others shall be, in units of `2 s^2`.
        reduction: As for all Keras losses.
        name: Name of the loss.

    Attributes:
        acts_on: `"squared_distances"`.

    Input shape:
        `y_true`: class ids `[B]` or `[B, 1]`. `y_pred`: squared distances `[B, C, K]`, see
        `ClusterHead.squared_distances`.

    Raises:
        ValueError: If `alpha` is negative or not finite, or `y_pred` does not have three axes.

    Example:

    >>> CenterMagnetLoss(alpha=1.0)([0, 1], [[[1.0], [4.0]], [[4.0], [1.0]]])
    0.25

    Reference:
        Rippel et al., Metric Learning with Adaptive Density Discrimination, ICLR 2016.
    """

    acts_on = "squared_distances"

    def __init__(
        self, alpha: float = 12.5, reduction: str = "sum_over_batch_size", name: str = "center_magnet_loss"
    ) -> None:
        super().__init__(alpha, reduction, name)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Computes the loss per example, `[B]`."""
        y_pred = ops.convert_to_tensor(y_pred)
        if len(y_pred.shape) != 3:
            raise ValueError(
                f"CenterMagnetLoss takes squared distances [B, C, K]; got shape {tuple(y_pred.shape)}. "
                "Pass head.squared_distances(embeddings)."
            )
        return center_magnet_losses(y_pred, ops.cast(ops.reshape(y_true, (-1,)), "int32"), self.alpha)[0]
