import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose

from clustr_keras.certificates.distances import norms

pytestmark = pytest.mark.usefixtures("wide")


def test_norms_of_float64_are_computed_in_float64():
    vectors = np.random.default_rng(0).normal(size=(50, 8))
    assert_allclose(norms(keras.ops.convert_to_tensor(vectors)), np.linalg.norm(vectors, axis=-1), rtol=1e-15)
