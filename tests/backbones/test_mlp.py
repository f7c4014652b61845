import numpy as np
import pytest
from numpy.testing import assert_allclose

from clustr_keras import lipschitz
from clustr_keras.backbones import lipschitz_mlp


def test_images_never_move_apart():
    backbone = lipschitz_mlp((6, 5, 3), (64, 32, 7))
    assert backbone.output_shape == (None, 7)
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(2, 100, 6, 5, 3)).astype("float32")
    apart = np.linalg.norm((x - y).reshape(100, -1), axis=-1)
    assert (np.linalg.norm(np.asarray(backbone(x)) - np.asarray(backbone(y)), axis=-1) <= apart * (1 + 1e-6)).all()
    assert_allclose(lipschitz.bound(backbone).value, 1.0, atol=3e-6)


@pytest.mark.parametrize(
    ("shape", "first", "dim"),
    [((8, 8, 1), 256, 64), ((28, 28, 1), 512, 128), ((4, 4, 3), 256, 64), ((40, 30), 512, 128)],
)
def test_sizes_of_common_images(shape, first, dim):
    backbone = lipschitz_mlp(shape)
    assert backbone.get_layer("orthogonal_0").units == first
    assert backbone.output_shape == (None, dim)


@pytest.mark.parametrize("widths", [(), (31, 16), (32, 15, 8)])
def test_widths_must_pair_up(widths):
    with pytest.raises(ValueError, match="even ones before the last"):
        lipschitz_mlp((8, 8, 1), widths)
