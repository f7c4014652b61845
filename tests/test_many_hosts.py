"""Data-parallel training over processes, each of which has its share of every batch."""

import os
import pathlib
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose

from clustr_keras import ClustrClassifier

TESTS = pathlib.Path(__file__).parent
# As on a machine that has no TensorFlow.
PROGRAM = "import sys; sys.modules['tensorflow'] = None; from support.host import main; main({}, {}, {}, {!r})"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What one process, and the first of two, have left."""
    pytest.importorskip("jax")
    folder = tmp_path_factory.mktemp("hosts")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(rank, count, port, str(folder / f"{count}.npz"))],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for count in (1, 2)
        for rank in range(count)
    ]
    try:
        for host in hosts:
            _, errors = host.communicate(timeout=240)
            assert host.returncode == 0, errors[-3000:]
    finally:
        for host in hosts:
            host.kill()
    return folder / "1.npz", folder / "2.npz"


def test_two_processes_train_as_one_does(files):
    one, two = (dict(np.load(file)) for file in files)
    assert one.keys() == two.keys()
    assert one["loss"][-1] < one["loss"][0]
    for name, expected in one.items():
        assert_allclose(two[name], expected, atol=1e-4, err_msg=name)


def test_what_the_first_process_saves_is_the_model(files):
    one, two = (keras.models.load_model(file.with_suffix(".keras")) for file in files)
    assert isinstance(two, ClustrClassifier)
    assert int(two.training_step) == int(one.training_step) == 8
    images = np.random.default_rng(0).uniform(size=(5, 8, 8, 1)).astype("float32")
    assert_allclose(two(images), one(images), atol=1e-3)
