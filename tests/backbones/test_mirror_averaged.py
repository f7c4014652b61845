import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from clustr_keras import ClustrClassifier, lipschitz
from clustr_keras.backbones import lipschitz_convnet, mirror_averaged

IMAGES = np.random.default_rng(0).uniform(size=(6, 8, 12, 3)).astype("float32")


@pytest.fixture(scope="module")
def backbone():
    keras.utils.set_random_seed(0)
    return lipschitz_convnet((8, 12, 3), channels=(8,), dense=(16, 4))


def test_embeddings_are_means_over_an_image_and_its_mirror_image(backbone):
    averaged = mirror_averaged(backbone)
    found = np.asarray(averaged(IMAGES))
    assert_allclose(found, (np.asarray(backbone(IMAGES)) + np.asarray(backbone(IMAGES[:, :, ::-1]))) / 2, atol=1e-6)
    assert_array_equal(found, np.asarray(averaged(IMAGES[:, :, ::-1].copy())))
    assert averaged.name == "lipschitz_convnet_mirror_averaged"
    assert {id(weight) for weight in averaged.weights} == {id(weight) for weight in backbone.weights}


def test_its_bound_is_that_of_the_backbone_and_holds(backbone):
    averaged = mirror_averaged(backbone)
    bound = lipschitz.bound(averaged)
    assert bound.value == pytest.approx(lipschitz.bound(backbone).value, rel=1e-5)
    assert bound.rounding_slope is None  # of kernels that are computed; below they are stored
    assert lipschitz.bound(lipschitz.condense(averaged)).value == pytest.approx(1.0, abs=1e-4)
    moved = np.clip(IMAGES + np.random.default_rng(1).normal(scale=0.05, size=IMAGES.shape), 0, 1).astype("float32")
    apart = np.linalg.norm((np.asarray(averaged(moved)) - np.asarray(averaged(IMAGES))).astype("float64"), axis=-1)
    assert (apart <= bound.value * np.linalg.norm((moved - IMAGES).reshape(6, -1).astype("float64"), axis=-1)).all()


def test_a_classifier_is_certified_saved_and_loaded(backbone, tmp_path):
    model = ClustrClassifier(mirror_averaged(backbone), 3)
    certificate = model.certify(IMAGES)
    assert (certificate.certified_radius > 0).all()
    assert_allclose(certificate.certified_radius, certificate.radius, atol=1e-3)
    mirrored = model.certify(IMAGES[:, :, ::-1].copy())
    assert_array_equal(mirrored.certified_radius, certificate.certified_radius)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").certify(IMAGES)
    assert_array_equal(loaded.certified_radius, certificate.certified_radius)


def test_what_is_no_backbone_is_refused():
    dense = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="of_vectors")
    with pytest.raises(ValueError, match=r"'of_vectors' maps \(None, 4\) to \(None, 2\)"):
        mirror_averaged(dense)
