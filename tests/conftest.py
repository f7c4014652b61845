"""Fixtures that several test files share; none of them may be mutated."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Tests run in parallel processes on few cores.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# What JAX compiles is kept for the next run, and for the processes that tests start.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.abspath(f"{__file__}/../../.pytest_cache/jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Optimizing takes most of the time of its compiler; make test-jax tests what users run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")

import pathlib

import hypothesis
import pytest

ROOT = pathlib.Path(__file__).parent
BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")
# What has to run on every backend: with KERAS_BACKEND=jax these alone are collected.
CORE = (
    "backbones",
    "certificates",
    "consistency/test_embedding.py",
    "consistency/test_qtrades.py",
    "consistency/test_trades.py",
    "lipschitz",
    "losses",
    "test_backend.py",
    "test_certificate.py",
    "test_certification.py",
    "test_classifier.py",
    "test_deployed_head.py",
    "test_fit_checks.py",
    "test_heads.py",
    "test_metrics.py",
    "test_objective.py",
    "test_objective_model.py",
)
# Their fixtures take longest. Work is stolen from the end of what another process has, and then they are made again.
FIRST = (
    "consistency/test_replicas.py",
    "evaluation/test_evaluate.py",
    "evaluation/test_reach.py",
    "test_backends_agree.py",
    "test_export_scripts.py",
    "test_many_hosts.py",
    "training/test_devices.py",
)
# What --quick leaves out of them, in lines `file::test` or `file::test[parameters]`: but for a few, what takes half a
# second and more. JAX compiles each operation for each shape.
SLOW_ON_JAX = ROOT / "slow_on_jax.txt"
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
# Each example is compiled anew where its shapes are.
hypothesis.settings.register_profile("second backend", deadline=None, derandomize=True, max_examples=4)
hypothesis.settings.load_profile("suite" if BACKEND == "tensorflow" else "second backend")


# TensorFlow makes so many objects while it traces that a fifth of the time went into looking for garbage among them.
gc.set_threshold(100_000, 50, 100)


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="without what takes long on JAX")


def pytest_collection_modifyitems(config, items):
    """Puts modules first that have costly fixtures; leaves out what takes long on JAX, with --quick."""
    items.sort(key=lambda item: item.path.relative_to(ROOT).as_posix() not in FIRST)
    if not config.getoption("--quick"):
        return
    kept, left_out, found = [], [], set()
    slow = set(SLOW_ON_JAX.read_text().splitlines())
    for item in items:
        path = item.path.relative_to(ROOT).as_posix()
        names = {f"{path}::{item.originalname}", f"{path}::{item.name}"} & slow
        found |= names
        (left_out if names else kept).append(item)
    if slow - found and config.args == config.getini("testpaths"):
        raise pytest.UsageError(f"{SLOW_ON_JAX.name} names tests that are not there: {', '.join(slow - found)}.")
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)


def pytest_ignore_collect(collection_path):
    """Keeps other backends from importing what is about TensorFlow."""
    if BACKEND == "tensorflow" or ROOT not in collection_path.parents:
        return None
    path = collection_path.relative_to(ROOT).as_posix()
    return not any(name == path or name.startswith(f"{path}/") or path.startswith(f"{name}/") for name in CORE) or None


@pytest.fixture(scope="session", autouse=True)
def _quick_draws():
    """Initial weights for which JAX has nothing to compile."""
    if BACKEND == "jax":
        from support.initial_weights import draw_with_numpy

        draw_with_numpy()


@pytest.fixture(autouse=True)
def _seeded():
    """Initial weights must not depend on which tests ran before in this process."""
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture
def wide():
    """What is compared in float64 has it on every backend."""
    from clustr_keras.backend import wide_floats

    with wide_floats():
        yield


@pytest.fixture(scope="session")
def digits():
    """`(x_train, y_train), (x_test, y_test)` of the bundled digits."""
    from clustr_keras.data import load_digits

    return load_digits()


@pytest.fixture
def small(digits):
    """200 images and labels."""
    (images, labels), _ = digits
    return images[:200], labels[:200]


@pytest.fixture(scope="session")
def classifier(digits):
    """A small trained classifier on the digits."""
    from clustr_keras.training import CertifiedRecipe, train_certified

    (images, labels), _ = digits
    recipe = CertifiedRecipe(sizes={"widths": (64, 32)}, clusters_per_class=2, epochs=8)
    return train_certified(images, labels, class_names="0123456789", recipe=recipe)


@pytest.fixture
def clustr_here(capfd):
    """As `clustr`, but in this process, which does not take seconds to start: exit status, stdout and stderr."""
    from support.command_line import status_of

    def run(*arguments, cwd):
        capfd.readouterr()
        return status_of(*arguments, cwd=cwd), *capfd.readouterr()

    return run
