import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose

from clustr_keras import CertifiedMarginLoss, ClustrClassifier
from clustr_keras.backbones import lipschitz_convnet, lipschitz_mlp, lipschitz_resnet
from clustr_keras.lipschitz import OrthogonalDense, orthogonal_optimizer


def classifier(make=lipschitz_mlp, **sizes):
    keras.utils.set_random_seed(0)
    return ClustrClassifier(make((8, 8, 1), **(sizes or {"widths": (32, 16)})), num_classes=10)


def kernels(model):
    return [np.asarray(layer.raw_kernel) for layer in model.backbone.layers if isinstance(layer, OrthogonalDense)]


def test_what_is_given_comes_before_what_is_set():
    optimizer = orthogonal_optimizer(0.3, ns_steps=5, nesterov=False)
    assert_allclose(float(optimizer.learning_rate), 0.3, rtol=1e-6)
    assert (optimizer.ns_steps, optimizer.momentum, optimizer.nesterov) == (5, 0.9, False)
    assert keras.optimizers.deserialize(keras.optimizers.serialize(optimizer)).get_config() == optimizer.get_config()


def test_a_step_moves_all_directions_of_a_kernel_by_about_as_much(digits):
    (images, labels), _ = digits
    model = classifier()
    model.compile(orthogonal_optimizer(1e-3), CertifiedMarginLoss(4.0, 0.8))
    before = kernels(model)
    model.train_on_batch(images[:256], labels[:256])
    for old, new in zip(before, kernels(model), strict=True):
        lengths = np.linalg.svd(new - old, compute_uv=False)
        # 0.2 times the learning rate times the root of the longer side, Moonlight's scale: entries of Adam's size. The
        # iterations bring all but the shortest of the gradient's directions to between 0.5 and 1.3 of that.
        full = 1e-3 * 0.2 * np.sqrt(max(old.shape))
        assert lengths.max() < 1.4 * full
        assert (lengths > 0.4 * full).mean() > 0.4


def test_what_has_no_gradient_stays_where_it_is(digits):
    (images, labels), _ = digits
    model = classifier()
    model.head.centers.assign(3.0 * np.asarray(model.head.centers))
    for layer in model.backbone.layers:
        if isinstance(layer, OrthogonalDense):
            layer.bias.assign(np.full(layer.bias.shape, 0.7))
    model.compile(orthogonal_optimizer(0.1), CertifiedMarginLoss(4.0, 0.8))
    before = [np.array(weight) for weight in model.trainable_weights]
    model.fit(images[:64], labels[:64], epochs=5, verbose=0, sample_weight=np.zeros(64, "float32"))
    for old, new in zip(before, model.trainable_weights, strict=True):
        assert_allclose(np.asarray(new), old, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "sizes"),
    [
        (lipschitz_mlp, {"widths": (48, 32, 16)}),
        (lipschitz_convnet, {"channels": (8,), "dense": (16,)}),
        (lipschitz_resnet, {"width": 8, "depths": (1,), "dense": (16,)}),
    ],
    ids=["mlp", "convnet", "resnet"],
)
def test_kernels_stay_orthogonal_and_the_model_learns(digits, make, sizes):
    (images, labels), _ = digits
    model = classifier(make, **sizes)
    model.compile(orthogonal_optimizer(2e-2), CertifiedMarginLoss(4.0, 0.8))
    model.fit(images[:512], labels[:512], batch_size=64, epochs=4, verbose=0)
    for layer in model.backbone.layers:
        if isinstance(layer, OrthogonalDense):
            singular = np.linalg.svd(np.asarray(layer.kernel, "float64"), compute_uv=False)
            assert_allclose(singular, 1.0, atol=1e-5)
    certificate = model.certify(images[:512])
    assert np.mean((certificate.class_ids == labels[:512]) & (certificate.radius > 0.3)) > 0.6


def test_a_one_lipschitz_backbone_is_compiled_with_it_by_default(digits, tmp_path):
    model = classifier()
    model.compile()
    assert model.optimizer.get_config() == {**orthogonal_optimizer().get_config(), "name": model.optimizer.name}
    (images, labels), _ = digits
    model.fit(images[:64], labels[:64], verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer, keras.optimizers.Muon)
    assert int(loaded.optimizer.iterations) == 2
    for old, new in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        assert_allclose(np.asarray(new), np.asarray(old))


def test_any_other_backbone_is_compiled_with_adam():
    images = keras.Input((8, 8, 1))
    plain = ClustrClassifier(keras.Model(images, keras.layers.Dense(4)(keras.layers.Flatten()(images))), 10)
    plain.compile()
    assert isinstance(plain.optimizer, keras.optimizers.Adam)
    model = classifier()
    model.compile("sgd")
    assert isinstance(model.optimizer, keras.optimizers.SGD)
