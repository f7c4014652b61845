"""Losses that an attack ascends. None of them saturates, but for the cross-entropy of the paper's protocol."""

import tensorflow as tf

from clustr_keras.types import Tensor


def margin(labels: Tensor, logits: Tensor) -> Tensor:
    """`max_{j != y} logit_j - logit_y`, `[B]`: positive exactly where the example is flipped.

    Args:
        labels: Ints `[B]`.
        logits: Floats `[B, C]`.

    Returns:
        Floats `[B]`.

    Reference:
        Carlini and Wagner, Towards Evaluating the Robustness of Neural Networks, S&P 2017, objective f_6.
    """
    is_label = tf.one_hot(labels, tf.shape(logits)[-1], on_value=True, off_value=False)
    of_label = tf.reduce_sum(tf.where(is_label, logits, 0.0), axis=-1)
    return tf.reduce_max(tf.where(is_label, -float("inf"), logits), axis=-1) - of_label


def dlr(labels: Tensor, logits: Tensor) -> Tensor:
    """Difference of logits ratio, `-(z_y - max_{j != y} z_j) / (z_(1) - z_(3))`, `[B]`.

    Unlike the margin it does not change when logits are shifted or scaled.

    Args:
        labels: Ints `[B]`.
        logits: Floats `[B, C]` with C at least 3.

    Returns:
        Floats `[B]`.

    Raises:
        ValueError: If there are fewer than 3 classes.

    Reference:
        Croce and Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
        attacks, ICML 2020, equation 6.
    """
    classes = logits.shape[-1]
    if classes is not None and classes < 3:
        raise ValueError(f"the difference of logits ratio needs at least 3 classes; got {classes}.")
    largest = tf.math.top_k(logits, 3).values
    # 0 where the three largest logits are equal.
    return tf.math.divide_no_nan(margin(labels, logits), largest[:, 0] - largest[:, 2])


def cross_entropy(labels: Tensor, logits: Tensor) -> Tensor:
    """Cross-entropy of the softmax, `[B]`: the published loss. It vanishes where the softmax saturates.

    Args:
        labels: Ints `[B]`.
        logits: Floats `[B, C]`.

    Returns:
        Floats `[B]`.
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
