import keras
import numpy as np
import pytest

pytest.importorskip("apache_beam", reason="needs the environment of make test-beam")

import tensorflow as tf

from clustr_keras import ClustrClassifier
from clustr_keras.backbones import lipschitz_convnet
from clustr_keras.bulk.examples import Examples
from clustr_keras.bulk.handler import CertifyingHandler


@pytest.fixture
def _options_restored():
    yield
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": True})


@pytest.mark.usefixtures("_options_restored")
def test_every_worker_gives_the_same_bits(tmp_path):
    """The graph optimizer was seen to sum a network of many channels in another order after each load."""
    path = tmp_path / "model.keras"
    backbone = lipschitz_convnet((32, 32, 3), channels=(96, 192), dense=(64, 32))
    ClustrClassifier(backbone, num_classes=10).save(path)
    images = np.random.default_rng(0).random((16, 32, 32, 3), dtype="float32")
    examples = Examples([str(row) for row in range(16)], [None] * 16, images=images)
    handler = CertifyingHandler(str(path), batch_size=256)  # smaller ones were not affected
    tables = [table for _ in range(3) for _, table in handler.run_inference([(None, examples)], handler.load_model())]
    for table in tables[1:]:
        assert table.equals(tables[0])
    certificate = keras.models.load_model(path).certify(images, batch_size=16)
    np.testing.assert_array_equal(tables[0]["class_id"].to_numpy(), certificate.class_ids)
    np.testing.assert_allclose(tables[0]["certified_radius"].to_numpy(), certificate.certified_radius, atol=1e-6)
