"""TensorFlow and JAX: the same numbers, and one file format."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal
from support import agreement, parts

import clustr_keras
from clustr_keras import backbones, losses, metrics
from clustr_keras.serving import export_model

TESTS = pathlib.Path(__file__).parent
# On a machine with JAX alone: building, training, certifying and saving need no TensorFlow.
PROGRAM = """
import gc, pathlib
gc.set_threshold(100_000, 50, 100)  # as in conftest.py
import support.without_tensorflow
from support import agreement, initial_weights
initial_weights.draw_with_numpy()
agreement.run(pathlib.Path({!r}))
"""
NAMES = list(agreement.models())
CERTIFIED = agreement.CERTIFIED
METRICS = [name for name, _ in parts.metrics()]
PARTS = [*parts.losses_at(), *METRICS, *parts.BACKBONES]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders of models and numbers, of this process on TensorFlow and of one on JAX."""
    pytest.importorskip("jax")
    ours, theirs = tmp_path_factory.mktemp("tensorflow"), tmp_path_factory.mktemp("jax")
    path = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", PROGRAM.format(str(theirs))]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": path}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as other:
        agreement.run(ours)
        _, errors = other.communicate(timeout=300)
    assert other.returncode == 0, errors[-3000:]
    return ours, theirs


@pytest.fixture(scope="module")
def numbers(folders):
    return [dict(np.load(folder / "numbers.npz")) for folder in folders]


@pytest.mark.parametrize("name", PARTS)
def test_each_loss_metric_and_backbone_agrees_with_its_first_gradient(folders, name):
    ours, theirs = (dict(np.load(folder / "parts.npz")) for folder in folders)
    kinds = [key for key in ours if key.startswith(f"{name}: ")]
    assert len(kinds) == (1 if name in METRICS else 2)
    for kind in kinds:
        assert np.abs(ours[kind]).max() > 1e-2
        assert_allclose(theirs[kind], ours[kind], atol=1e-5 * max(1.0, np.abs(ours[kind]).max()), err_msg=kind)


def test_all_that_is_published_is_compared():
    made_of_others = {"mirror_averaged"}  # and of operations of Keras
    functions = {name for name in backbones.__all__ if callable(getattr(backbones, name))}
    assert functions - made_of_others == set(parts.BACKBONES)
    assert set(losses.__all__) - {"magnet_losses", "center_magnet_losses"} == set(parts.losses_at())
    published = {name for name in vars(metrics) if name in clustr_keras.__all__}
    assert published == set(METRICS)


@pytest.mark.parametrize("name", NAMES)
def test_forward_pass_and_first_gradient_agree(numbers, name):
    ours, theirs = numbers
    assert_allclose(theirs[f"{name}: logits"], ours[f"{name}: logits"], atol=1e-5)
    for kind in ("gradient", "input gradient"):
        expected = ours.get(f"{name}: {kind}")
        if expected is not None:
            assert np.abs(expected).max() > 1e-3
            assert_allclose(theirs[f"{name}: {kind}"], expected, atol=1e-5 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("name", NAMES)
def test_training_goes_the_same_way(numbers, name):
    ours, theirs = (curves[f"{name}: curve"] for curves in numbers)
    assert_allclose(theirs, ours, rtol=1e-3)
    assert ours[-3:].mean() < ours[:3].mean()


def test_a_model_trained_on_jax_is_the_same_on_tensorflow(folders, numbers, digits):
    theirs, images = numbers[1], digits[1][0][:100]
    certificate = keras.models.load_model(folders[1] / "model.keras").certify(images)
    has_room = theirs[f"{CERTIFIED}: radius"] > 1e-5
    assert has_room.mean() > 0.9
    assert_array_equal(certificate.class_ids[has_room], theirs[f"{CERTIFIED}: class_ids"][has_room])
    # The kernels in use are computed from the weights, by each backend with its own rounding.
    assert_allclose(certificate.lipschitz_bound, theirs[f"{CERTIFIED}: bound"], rtol=1e-6)
    assert_allclose(certificate.radius, theirs[f"{CERTIFIED}: radius"], atol=1e-5)
    assert_allclose(certificate.certified_radius, theirs[f"{CERTIFIED}: certified_radius"], atol=1e-5)
    assert (certificate.certified_radius > 0).mean() > 0.5


def test_a_model_trained_on_jax_is_served_by_tensorflow(folders, numbers, digits, tmp_path):
    theirs, images = numbers[1], digits[1][0][:100]
    version = export_model(keras.models.load_model(folders[1] / "model.keras"), tmp_path)
    answers = tf.saved_model.load(str(version)).signatures["serving_default"](images=tf.constant(images))
    assert_array_equal(answers["class_ids"], theirs[f"{CERTIFIED}: class_ids"])
    assert_allclose(answers["certified_radius"], theirs[f"{CERTIFIED}: certified_radius"], atol=1e-5)
