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
# With --quick these tests of them, or all of a file: JAX compiles each operation for each shape, and all take minutes.
QUICK = {
    "certificates/test_distances.py": None,
    "consistency/test_qtrades.py": (
        "test_the_twin_is_one_signed_gradient_step_from_a_uniform_start",
        "test_the_loss_differentiates_the_images_distribution_and_not_the_attack",
        "test_each_of_three_passes_moves_the_statistics_of_batch_normalization",
    ),
    "consistency/test_trades.py": (
        "test_ten_steps_climb_within_the_ball_and_the_pixel_range",
        "test_the_loss_is_the_divergence_of_its_name",
    ),
    "lipschitz/test_layers.py": (
        "test_condensing_gives_the_same_outputs",
        "test_huge_and_tiny_weights_neither_overflow_nor_die",
        "test_the_constraint_finds_the_nearest_orthonormal_matrix",
        "test_the_gradient_is_that_of_a_newton_schulz_step_at_an_orthogonal_kernel",
    ),
    "losses/test_certified_margin.py": None,
    "losses/test_consistency.py": None,
    "test_backend.py": None,
    "test_certification.py": (
        "test_an_image_that_is_no_number_has_radius_zero",
        "test_jax_told_to_be_fast_rather_than_exact_certifies_nothing",
        "test_the_radius_is_that_of_the_exact_embedding",
        "test_where_float32_is_all_there_is_radii_are_no_larger",
    ),
    "test_classifier.py": (
        "test_certify_agrees_with_predict_and_evaluate",
        "test_training_a_backbone_that_is_one_lipschitz_runs_at_one",
    ),
    "test_heads.py": (
        "test_far_from_all_centers_log_scores_have_the_gradient_that_the_published_ones_lost",
        "test_geometry_is_float32_under_mixed_precision",
    ),
    "test_objective.py": (
        "test_a_consistency_term_counts_by_its_mean",
        "test_labels_without_clusters_are_held_against_the_heads_centers",
        "test_the_magnet_loss_takes_batches_of_clusters",
    ),
    "test_objective_model.py": (
        "test_batches_of_clusters_get_their_losses_back_in_order",
        "test_fit_trains_with_every_term_and_validates_without",
    ),
}
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
    kept, left_out = [], []
    for item in items:
        path = item.path.relative_to(ROOT).as_posix()
        is_core = path in CORE or path.partition("/")[0] in CORE
        is_quick_one = path in QUICK and (QUICK[path] is None or item.originalname in QUICK[path])
        (kept if (is_quick_one if is_quick else is_core) else left_out).append(item)
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
