import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal

from clustr_keras.attacks import margin


@given(
    logits=hnp.arrays("float32", (5, 4), elements=st.integers(-8000, 8000).map(lambda eighths: eighths / 8)),
    labels=hnp.arrays("int64", 5, elements=st.integers(0, 3)),
)
def test_it_is_the_best_rival_less_the_label(logits, labels):
    by_hand = [np.delete(row, label).max() - row[label] for row, label in zip(logits, labels, strict=True)]
    assert_array_equal(margin(labels, tf.constant(logits)), by_hand)


@given(seed=st.integers(0, 1000))
def test_it_is_positive_exactly_where_another_class_wins(seed):
    generator = np.random.default_rng(seed)
    logits, labels = generator.normal(size=(10, 3)).astype("float32"), generator.integers(0, 3, 10)
    assert_array_equal(margin(labels, tf.constant(logits)) > 0, logits.argmax(1) != labels)


def test_its_gradient_is_one_for_the_rival_and_minus_one_for_the_label_however_far():
    logits = tf.constant([[500.0, -500.0, -501.0], [-1e6, 3.0, 2.0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = margin(np.array([0, 0]), logits)
    assert_allclose(tape.gradient(loss, logits), [[-1, 1, 0], [-1, 1, 0]])


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_labels_may_be_of_either_width_and_batches_empty(dtype):
    assert margin(np.zeros(0, dtype), tf.zeros((0, 3))).shape == (0,)
    assert_array_equal(margin(np.array([2], dtype), tf.constant([[1.0, 4.0, 2.0]])), [2.0])
