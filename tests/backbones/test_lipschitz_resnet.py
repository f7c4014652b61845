import numpy as np
import pytest
from numpy.testing import assert_allclose

from clustr_keras import ClustrClassifier, lipschitz
from clustr_keras.backbones import lipschitz_resnet


def small():
    return lipschitz_resnet((8, 8, 1), width=8, depths=(1, 2), dense=(16, 5))


def test_images_never_move_apart():
    backbone = small()
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(2, 100, 8, 8, 1)).astype("float32")
    apart = np.linalg.norm((x - y).reshape(100, -1), axis=-1)
    assert (np.linalg.norm(np.asarray(backbone(x)) - np.asarray(backbone(y)), axis=-1) <= apart * (1 + 1e-6)).all()
    assert lipschitz.is_one_lipschitz_by_construction(backbone)
    assert_allclose(lipschitz.bound(backbone).value, 1.0, atol=1e-4)


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3)])
def test_depth_and_width_scale_it(shape):
    backbone = lipschitz_resnet(shape, width=4, depths=(2, 1), dense=(10,))
    assert backbone.output_shape == (None, 10)
    assert backbone.get_layer("stage0_residual1").output.shape == (None, shape[0] // 2, shape[1] // 2, 4)
    assert backbone.get_layer("stage1_residual0").output.shape == (None, shape[0] // 4, shape[1] // 4, 8)


@pytest.mark.parametrize(
    ("shape", "dim", "last"), [((8, 8, 1), 64, "stage0_residual1"), ((28, 28, 1), 128, "stage1_residual1")]
)
def test_sizes_of_common_images(shape, dim, last):
    backbone = lipschitz_resnet(shape)
    assert backbone.output_shape == (None, dim)
    assert backbone.get_layer(last).output.shape[-1] == 32


def test_it_learns_the_digits_and_condenses(digits):
    (images, labels), (x_test, y_test) = digits
    model = ClustrClassifier(small(), num_classes=10)
    model.compile("adam", metrics=["accuracy"])
    model.optimizer.learning_rate.assign(5e-3)
    model.fit(images, labels, epochs=6, verbose=0)
    assert model.evaluate(x_test, y_test, verbose=0, return_dict=True)["accuracy"] > 0.85
    plain = lipschitz.condense(model.backbone)
    assert_allclose(plain(x_test[:20]), model.backbone(x_test[:20]), atol=1e-5)
    assert lipschitz.bound(plain).value <= 1.01
    assert (model.certify(x_test[:20]).radius > 0).any()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [({"depths": ()}, "depths must"), ({"dense": ()}, "dense must"), ({"dense": (7, 5)}, "dense must")],
)
def test_there_must_be_stages_and_dense_layers(arguments, match):
    with pytest.raises(ValueError, match=match):
        lipschitz_resnet((8, 8, 1), **arguments)


@pytest.mark.parametrize("shape", [(28, 30, 1), (8, 8), (None, 8, 1)])
def test_images_must_be_halved_once_per_stage(shape):
    with pytest.raises(ValueError, match="divisible by 4"):
        lipschitz_resnet(shape, depths=(1, 1))
