import numpy as np
import pytest
from numpy.testing import assert_array_equal

from clustr_keras.data import as_floats


def test_8_bit_images_are_the_nearest_float32_of_their_255ths():
    pixels = np.arange(256, dtype="uint8").reshape(1, 16, 16, 1)
    floats = as_floats(pixels)
    assert floats.dtype == np.float32
    assert_array_equal(floats, (pixels.astype("float64") / 255).astype("float32"))
    assert_array_equal(np.rint(floats * 255), pixels)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_keep_their_values(dtype):
    images = np.linspace(0, 1, 12, dtype=dtype).reshape(1, 2, 2, 3)
    assert as_floats(images).dtype == np.float32
    assert_array_equal(as_floats(images), images.astype("float32"))


@pytest.mark.parametrize("value", [1.5, -0.1, 255.0, float("nan")])
def test_floats_outside_are_refused(value):
    with pytest.raises(ValueError, match="must be finite and lie in"):
        as_floats(np.full((1, 2, 2, 1), value))


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint16", "bool"])
def test_other_types_are_refused(dtype):
    with pytest.raises(ValueError, match=f"got dtype {dtype}"):
        as_floats(np.ones((1, 2, 2, 1), dtype))
