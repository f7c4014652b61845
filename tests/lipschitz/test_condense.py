import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from clustr_keras import ClustrClassifier, lipschitz
from clustr_keras.backbones import lipschitz_convnet, lipschitz_mlp
from clustr_keras.lipschitz import MaxMin, OrthogonalDense


def nested():
    inner = lipschitz_mlp((4, 4, 1), (16, 8))
    inputs = keras.Input((4, 4, 1))
    return keras.Model(inputs, OrthogonalDense(6)(MaxMin()(inner(inputs))))


def sequential():
    layers = [keras.layers.Flatten(), keras.layers.BatchNormalization(), OrthogonalDense(8), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((4, 4, 1)), *layers])
    model.layers[1].set_weights([np.full(16, value) for value in (2.0, 1.0, 0.5, 4.0)])
    return model


def shared():
    inputs = keras.Input((4, 4, 1))
    layer = OrthogonalDense(16)
    x = layer(MaxMin()(layer(keras.layers.Flatten()(inputs))))
    return keras.Model(inputs, x)


def nested_on_the_same_input():
    inputs = keras.Input((4, 4, 1))
    inner = keras.Model(inputs, OrthogonalDense(6)(keras.layers.Flatten()(inputs)))
    return keras.Model(inputs, keras.layers.Dense(3)(inner(inputs)))


def with_operations():
    inputs = keras.Input((4, 4, 1))
    x = OrthogonalDense(6)(keras.layers.Flatten()(keras.ops.flip(0.5 - inputs, axis=2)))
    return keras.Model(inputs, keras.ops.maximum(x, 0.25 * x + 0.1))


@pytest.mark.parametrize("make", [nested, sequential, shared, nested_on_the_same_input, with_operations])
def test_outputs_are_the_same_and_the_kernels_plain(make):
    model = make()
    plain = lipschitz.condense(model)
    x = np.random.default_rng(0).uniform(size=(7, 4, 4, 1)).astype("float32")
    assert_allclose(plain(x), model(x), atol=1e-5)
    assert not any(isinstance(layer, OrthogonalDense) for layer in plain._flatten_layers())


def test_the_copy_keeps_its_weights_when_the_original_trains_on():
    model = lipschitz_mlp((4, 4, 1), (16, 8))
    plain = lipschitz.condense(model)
    x = np.ones((1, 4, 4, 1), "float32")
    before = np.asarray(plain(x))
    for variable in model.trainable_variables:
        variable.assign(variable + 0.3)
    assert_allclose(plain(x), before)
    assert not np.allclose(model(x), before, atol=1e-3)


def test_a_subclass_is_not_taken_for_its_parent():
    class Twice(lipschitz.OrthogonalDense):
        def call(self, inputs):
            return 2.0 * super().call(inputs)

    inputs = keras.Input((6,))
    model = keras.Model(inputs, Twice(4)(inputs))
    condensed = lipschitz.condense(model)
    x = np.random.default_rng(0).normal(size=(3, 6)).astype("float32")
    assert_allclose(condensed(x), model(x), atol=1e-6)
    with pytest.raises(lipschitz.UnknownBoundError, match="Twice"):
        lipschitz.bound(condensed)


@pytest.mark.parametrize("clusters", [1, 2])
@pytest.mark.parametrize("make", [lipschitz_mlp, lipschitz_convnet])
def test_certificates_are_the_same(make, clusters):
    backbone = make((8, 8, 1))
    model = ClustrClassifier(backbone, num_classes=3, clusters_per_class=clusters)
    condensed = ClustrClassifier(lipschitz.condense(backbone), num_classes=3, clusters_per_class=clusters)
    images = np.random.default_rng(0).uniform(size=(40, 8, 8, 1)).astype("float32")
    near = np.asarray(backbone(images[: 3 * clusters]))
    for head in (model.head, condensed.head):
        head.centers.assign(near.reshape(head.centers.shape))
    one, other = model.certify(images), condensed.certify(images)
    assert_array_equal(one.class_ids, other.class_ids)
    assert_allclose(one.radius, other.radius, rtol=3e-3, atol=1e-5)
    assert_allclose(one.certified_radius, other.certified_radius, rtol=3e-3, atol=1e-5)
    assert set(one.class_ids) == {0, 1, 2}
    assert one.radius.max() > 0.1
