import numpy as np
import pytest
from numpy.testing import assert_allclose

from clustr_keras import lipschitz
from clustr_keras.backbones import lipschitz_convnet


def small():
    return lipschitz_convnet((8, 8, 1), channels=(4, 8), dense=(16, 5))


def test_images_never_move_apart():
    backbone = small()
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(2, 100, 8, 8, 1)).astype("float32")
    apart = np.linalg.norm((x - y).reshape(100, -1), axis=-1)
    assert (np.linalg.norm(np.asarray(backbone(x)) - np.asarray(backbone(y)), axis=-1) <= apart * (1 + 1e-6)).all()
    assert lipschitz.is_one_lipschitz_by_construction(backbone)
    assert_allclose(lipschitz.bound(backbone).value, 1.0, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "last_stage", "channels", "dim"),
    [((8, 8, 1), 0, 32, 64), ((28, 28, 1), 1, 32, 128), ((32, 32, 3), 1, 64, 128)],
)
def test_sizes_of_common_images(shape, last_stage, channels, dim):
    backbone = lipschitz_convnet(shape)
    assert backbone.output_shape == (None, dim)
    size = shape[0] // 2 ** (last_stage + 1)
    assert backbone.get_layer(f"stage{last_stage}_max_min0").output.shape == (None, size, size, channels)


@pytest.mark.parametrize("padding", ["same", "circular"])
def test_the_padding_is_that_of_its_convolutions(padding):
    backbone = lipschitz_convnet((8, 8, 1), (4,), (5,), padding=padding)
    assert backbone.get_layer("stage0_orthogonal_conv0").padding == padding


def test_condensed_it_is_the_same_network_of_plain_layers():
    backbone = small()
    plain = lipschitz.condense(backbone)
    x = np.random.default_rng(0).uniform(size=(6, 8, 8, 1)).astype("float32")
    assert_allclose(plain(x), backbone(x), atol=1e-5)
    assert lipschitz.bound(plain).value <= 1.01


@pytest.mark.parametrize("channels", [(), (4, 7)])
def test_channels_must_pair_up(channels):
    with pytest.raises(ValueError, match="even ones only"):
        lipschitz_convnet((8, 8, 1), channels)


def test_depth_repeats_the_convolutions_of_a_stage():
    backbone = lipschitz_convnet((8, 8, 1), (4, 8), (5,), depth=3)
    channels = [layer.filters for layer in backbone.layers if "orthogonal_conv" in layer.name]
    assert channels == [4, 4, 4, 8, 8, 8]
    with pytest.raises(ValueError, match="depth must be at least 1; got 0"):
        lipschitz_convnet((8, 8, 1), depth=0)


@pytest.mark.parametrize("dense", [(), (7, 5)])
def test_dense_layers_must_pair_up(dense):
    with pytest.raises(ValueError, match="dense must hold"):
        lipschitz_convnet((8, 8, 1), dense=dense)


@pytest.mark.parametrize("shape", [(28, 30, 1), (8, 8), (None, 8, 1)])
def test_images_must_be_halved_once_per_stage(shape):
    with pytest.raises(ValueError, match="divisible by 4"):
        lipschitz_convnet(shape, (4, 8))
