"""A small network for tests of PGD, images for it, and the size of what was found."""

import numpy as np
import pytest
import tensorflow as tf

ORDER = {"l_2": 2, "l_inf": np.inf}
norms = pytest.mark.parametrize("norm", ["l_2", "l_inf"])
SHAPE = (3, 4, 1)
DIM = 12


def norm_of(difference, norm):
    return np.linalg.norm(difference.astype("float64").reshape(len(difference), -1), ord=ORDER[norm], axis=1)


class Network:
    """A small smooth network of 4 classes. Counts how often Python runs it."""

    def __init__(self, seed=0):
        generator = np.random.default_rng(seed)
        self.first = tf.constant(generator.normal(size=(DIM, 16)), tf.float32)
        self.second = tf.constant(generator.normal(size=(16, 4)), tf.float32)
        self.python_runs = 0

    def __call__(self, images):
        self.python_runs += 1
        return tf.tanh(tf.reshape(images - 0.5, (-1, DIM)) @ self.first) @ self.second

    def classes(self, images):
        return self(tf.constant(images)).numpy().argmax(1)


def images_of(count, seed=0, low=0.0, high=1.0):
    return np.random.default_rng(seed).uniform(low, high, (count, *SHAPE)).astype("float32")
