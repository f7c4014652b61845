"""Fixtures that several test files share; none of them may be mutated."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Tests run in parallel processes on few cores.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pathlib

import hypothesis
import pytest

ROOT = pathlib.Path(__file__).parent
BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")
# What has to run on every backend: with KERAS_BACKEND=jax these alone are collected.
CORE = (
    "backbones",
    "consistency/test_embedding.py",
    "consistency/test_qtrades.py",
    "consistency/test_trades.py",
    "lipschitz",
    "losses",
    "test_backend.py",
    "test_certificates.py",
    "test_certification.py",
    "test_classifier.py",
    "test_deployed_head.py",
    "test_heads.py",
    "test_metrics.py",
    "test_objective.py",
)
# With --quick these of them: JAX compiles each operation for each shape, which takes many tests minutes.
QUICK = (
    "consistency/test_qtrades.py",
    "consistency/test_trades.py",
    "lipschitz/test_householder.py",
    "lipschitz/test_l2_norm_pooling.py",
    "lipschitz/test_layers.py",
    "losses/test_certified_margin.py",
    "losses/test_consistency.py",
    "test_backend.py",
    "test_certification.py",
    "test_classifier.py",
    "test_heads.py",
    "test_metrics.py",
    "test_objective.py",
)
# And without these.
SLOW = (
    "test_a_moved_center_moves_the_certificate",
    "test_a_saved_and_loaded_model_gives_the_same_answers",
    "test_any_weights_of_full_rank_make_an_orthogonal_kernel",
    "test_centers_at_the_threshold_of_coincidence_certify_nothing_wrong",
    "test_centers_whose_distance_overflows_certify_nothing_wrong",
    "test_certifying_adds_nothing_to_what_is_saved",
    "test_data_sets_are_taken_as_well_as_arrays",
    "test_no_value_of_the_weights_makes_the_norm_exceed_one",
    "test_rows_of_weight_zero_do_not_count",
    "test_the_bound_follows_the_weights",
    "test_the_default_method_is_exact_where_it_pays",
)
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
# Each example is compiled anew where its shapes are.
hypothesis.settings.register_profile("second backend", deadline=None, derandomize=True, max_examples=4)
hypothesis.settings.load_profile("suite" if BACKEND == "tensorflow" else "second backend")


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="a selection of the core's tests")


def pytest_collection_modifyitems(config, items):
    """Leaves out what is about TensorFlow on another backend, and with --quick what takes long there."""
    is_quick = config.getoption("--quick")
    if BACKEND == "tensorflow" and not is_quick:
        return
    chosen = QUICK if is_quick else CORE
    kept, left_out = [], []
    for item in items:
        path = item.path.relative_to(ROOT).as_posix()
        is_chosen = path in chosen or path.partition("/")[0] in chosen
        is_chosen = is_chosen and not (is_quick and item.originalname in SLOW)
        (kept if is_chosen else left_out).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)


def pytest_ignore_collect(collection_path):
    """Keeps other backends from importing what is about TensorFlow."""
    if BACKEND == "tensorflow" or ROOT not in collection_path.parents:
        return None
    path = collection_path.relative_to(ROOT).as_posix()
    return not any(name == path or name.startswith(f"{path}/") or path.startswith(f"{name}/") for name in CORE) or None


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
