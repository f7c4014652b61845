"""Initial weights from NumPy, for tests on JAX: it compiles its own generator for every shape, which takes long."""

import types

import jax
import numpy as np
from keras.src.backend import random
from keras.src.initializers import random_initializers
from keras.src.random.seed_generator import draw_seed
from scipy import stats


def draw_with_numpy():
    """Lets Keras' initializers draw with NumPy, from now on, wherever they are not compiled themselves."""
    random_initializers.random = types.SimpleNamespace(
        normal=_drawn(random.normal, _normal),
        truncated_normal=_drawn(random.truncated_normal, _truncated_normal),
        uniform=_drawn(random.uniform, _uniform),
        make_default_seed=random.make_default_seed,
        SeedGenerator=random.SeedGenerator,
    )


def _drawn(of_jax, of_numpy):
    def draw(shape, *args, dtype=None, seed=None, **kwargs):
        key = draw_seed(seed)
        if isinstance(key, jax.core.Tracer):
            return of_jax(shape, *args, dtype=dtype, seed=key, **kwargs)
        return of_numpy(np.random.default_rng(np.asarray(key)), shape, *args, **kwargs).astype(dtype or "float32")

    return draw


def _normal(rng, shape, mean=0.0, stddev=1.0):
    return mean + stddev * rng.normal(size=shape)


def _truncated_normal(rng, shape, mean=0.0, stddev=1.0):
    return mean + stddev * stats.norm.ppf(rng.uniform(*stats.norm.cdf([-2.0, 2.0]), size=shape))


def _uniform(rng, shape, minval=0.0, maxval=1.0):
    return rng.uniform(minval, maxval, size=shape)
