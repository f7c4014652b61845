import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal

from clustr_keras.attacks import cross_entropy, dlr, margin


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


@given(seed=st.integers(0, 1000), shift=st.floats(-5, 5), scale=st.floats(0.1, 10))
def test_dlr_is_the_ratio_and_does_not_change_with_shift_or_scale(seed, shift, scale):
    generator = np.random.default_rng(seed)
    logits, labels = generator.normal(size=(4, 6)), generator.integers(0, 6, 4)
    ordered = -np.sort(-logits, axis=-1)
    best_other = np.where(np.eye(6, dtype=bool)[labels], -np.inf, logits).max(axis=-1)
    expected = (best_other - logits[np.arange(4), labels]) / (ordered[:, 0] - ordered[:, 2])
    assert_allclose(dlr(labels, tf.constant(logits)), expected, rtol=1e-9)
    assert_allclose(dlr(labels, tf.constant(scale * logits + shift)), expected, rtol=1e-6, atol=1e-9)


def test_dlr_stays_finite_where_logits_are_equal_and_needs_three_classes():
    assert np.isfinite(dlr([0], tf.zeros((1, 3)))).all()
    with pytest.raises(ValueError, match="at least 3 classes; got 2"):
        dlr([0], tf.zeros((1, 2)))


def test_cross_entropy_saturates_where_the_margin_does_not():
    logits = tf.constant([[1000.0, 0.0, 0.0]])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        losses = cross_entropy([0], logits), margin([0], logits)
    assert not np.asarray(tape.gradient(losses[0], logits)).any()
    assert np.asarray(tape.gradient(losses[1], logits)).any()
