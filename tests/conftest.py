"""Fixtures that several test files share; none of them may be mutated."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Tests run in parallel processes on few cores.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import pytest

hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _seeded():
    """Initial weights must not depend on which tests ran before in this process."""
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def digits():
    """`(x_train, y_train), (x_test, y_test)` of the bundled digits."""
    from clustr_keras.data import load_digits

    return load_digits()


@pytest.fixture(scope="session")
def classifier(digits):
    """A small trained classifier on the digits."""
    from clustr_keras.training import CertifiedRecipe, train_certified

    (images, labels), _ = digits
    recipe = CertifiedRecipe(sizes={"widths": (64, 32)}, clusters_per_class=2, epochs=8)
    return train_certified(images, labels, class_names="0123456789", recipe=recipe)
