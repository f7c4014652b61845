import keras
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from clustr_keras.lipschitz import DepthToSpace, SpaceToDepth


@pytest.mark.parametrize("block", [1, 2, 3])
def test_the_pixels_of_a_block_become_channels_row_by_row(block):
    x = np.random.default_rng(0).normal(size=(2, 6, 12, 3)).astype("float32")
    y = np.asarray(SpaceToDepth(block)(x))
    assert y.shape == (2, 6 // block, 12 // block, 3 * block**2)
    for row, column in np.ndindex(y.shape[1:3]):
        pixels = x[:, row * block : (row + 1) * block, column * block : (column + 1) * block]
        assert_array_equal(y[:, row, column], pixels.reshape(2, -1))
    assert_array_equal(DepthToSpace(block)(y), x)


def test_sizes_may_be_left_open():
    inputs = keras.Input((None, None, 1))
    blocks = SpaceToDepth(2)(inputs)
    model = keras.Model(inputs, [blocks, DepthToSpace(2)(blocks)])
    assert model.output_shape == [(None, None, None, 4), (None, None, None, 1)]
    x = np.arange(2 * 4 * 6.0).reshape(2, 4, 6, 1).astype("float32")
    blocks, back = model.predict(x, verbose=0)
    assert blocks.shape == (2, 2, 3, 4)
    assert_array_equal(back, x)


@pytest.mark.parametrize("block", [0, -1, 2.0, "2", True])
@pytest.mark.parametrize("layer_class", [SpaceToDepth, DepthToSpace])
def test_a_block_must_be_a_positive_integer(layer_class, block):
    with pytest.raises(ValueError, match="block must be an integer of at least 1"):
        layer_class(block)


@pytest.mark.parametrize("shape", [(2, 5, 4, 1), (2, 4, 5, 1), (2, 4, 4)])
def test_blocks_must_fit_the_image(shape):
    with pytest.raises(ValueError, match="H and W divisible by 2"):
        SpaceToDepth(2)(np.zeros(shape))


def test_channels_must_make_up_blocks():
    with pytest.raises(ValueError, match="C divisible by 4"):
        DepthToSpace(2)(np.zeros((1, 3, 3, 6)))
