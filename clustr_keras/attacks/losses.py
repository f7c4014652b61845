"""Losses that an attack ascends. None of them saturates."""

import tensorflow as tf


def margin(labels, logits):
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
