import math

import keras
import numpy as np
import pytest
from keras import ops
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from support.gradients import value_and_gradients

from clustr_keras.backend import example_noise, examples_of_replica, input_gradient, num_replicas
from clustr_keras.philox import philox_bits


def noise(kind="uniform", seed=3, step=5, examples=range(8), shape=(7, 9, 3)):
    step, examples = ops.convert_to_tensor(step), ops.convert_to_tensor(np.array(examples, "int32"))
    return np.asarray(example_noise(kind, seed, step, examples, shape))


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_noise_is_a_function_of_seed_step_and_example(kind):
    all_eight = noise(kind)
    assert all_eight.shape == (8, 7, 9, 3)
    assert_array_equal(noise(kind, examples=[6, 2]), all_eight[[6, 2]])
    for other in (noise(kind, seed=4), noise(kind, step=6), noise(kind, examples=range(8, 16))):
        assert (other != all_eight).mean() > 0.99
    # Neither do the numbers come back elsewhere: not in a neighbour, nor one step or one seed later.
    elsewhere = np.concatenate([all_eight, noise(kind, step=6), noise(kind, seed=4)]).reshape(24, -1)
    assert np.abs(np.corrcoef(elsewhere) - np.eye(24)).max() < 0.3


@pytest.mark.parametrize(("kind", "cdf"), [("uniform", stats.uniform(-1, 2).cdf), ("normal", stats.norm.cdf)])
def test_noise_has_the_distribution_of_its_name(kind, cdf):
    values = noise(kind, examples=range(50), shape=(20, 20, 1)).ravel()
    assert stats.kstest(values, cdf).pvalue > 0.01
    assert np.isfinite(values).all()


def test_uniform_noise_stays_within_one():
    assert np.abs(noise(examples=range(10), shape=(300, 300, 1))).max() < 1.0


@pytest.mark.parametrize("shape", [(1,), (5, 3), (64, 64, 3)])
def test_every_backend_has_tensorflows_numbers(shape):
    tf = pytest.importorskip("tensorflow")
    for seed, step, example in [(0, 0, 0), (3, 5, 7), (2**31 - 1, 2**31 - 1, 2**31 - 1)]:
        key = np.int64([seed * 2**32 + step, example])
        expected = tf.random.stateless_uniform(shape, key, minval=None, maxval=None, dtype="uint32", alg="philox")
        bits = philox_bits(seed, ops.convert_to_tensor(step), ops.convert_to_tensor([example, 1]), math.prod(shape))
        assert_array_equal(np.reshape(bits[0], shape), expected)
        found = noise(seed=seed, step=step, examples=[example], shape=shape)[0]
        assert_array_equal(
            found, np.float32(np.asarray(expected) >> 8) * np.float32(2.0**-23) - np.float32(1 - 2.0**-24)
        )


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="about tf.function")
@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_noise_is_the_same_however_it_is_compiled(kind):
    tf = pytest.importorskip("tensorflow")

    def function(step):
        return example_noise(kind, 3, step, tf.range(4), (5, 5, 1))

    step = tf.constant(7)
    eager = function(step)
    assert_array_equal(tf.function(function)(step), eager)
    assert_allclose(tf.function(function, jit_compile=True)(step), eager, rtol=1e-4)


def test_the_largest_seed_is_as_good_as_any():
    assert (noise(seed=2**31 - 1) != noise(seed=2**31 - 2)).mean() > 0.99


def test_the_gradient_of_an_input_is_that_of_the_sum_of_all_values():
    weights = keras.Variable([[1.0, 2.0], [3.0, -4.0]])
    x = ops.convert_to_tensor([[0.5, -1.0], [2.0, 0.0]])

    def gradient_and_other():
        return input_gradient(lambda x: ((x @ weights) ** 2, 3.0 * (x @ weights)), x, [weights])

    gradient, other = gradient_and_other()
    images, w = np.array(x), np.array(weights)
    assert_allclose(gradient, 2.0 * images @ w @ w.T)
    assert_allclose(other, 3.0 * images @ w)
    _, (of_other,) = value_and_gradients(lambda: gradient_and_other()[1], weights)
    assert_allclose(of_other, 3.0 * images.T @ np.ones((2, 2)))


def test_what_the_function_updates_stays_updated():
    normalization = keras.layers.BatchNormalization(momentum=0.9)
    normalization.build((None, 2))
    x = ops.convert_to_tensor([[1.0, 4.0], [3.0, 8.0]])
    input_gradient(lambda x: (normalization(x, training=True), x), x, normalization.variables)
    assert_allclose(normalization.moving_mean, [0.2, 0.6], rtol=1e-6)


def test_outside_of_replicas_there_is_one():
    assert_array_equal(examples_of_replica(3), [0, 1, 2])
    assert num_replicas() == 1
