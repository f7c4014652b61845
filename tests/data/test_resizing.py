import numpy as np
import PIL.Image
import pytest
from numpy.testing import assert_allclose

from clustr_keras.data.resizing import check_image_size, resized

photo = np.random.default_rng(0).integers(0, 256, (24, 30, 3)).astype("uint8")


@pytest.mark.parametrize("size", [(12, 15), (48, 60), (7, 40), (24, 30)])
def test_8_bit_images_agree_with_pillow(size):
    expected = np.asarray(PIL.Image.fromarray(photo).resize(size[::-1], PIL.Image.Resampling.BILINEAR))
    result = resized(photo, size).numpy()
    assert result.dtype == np.uint8
    assert_allclose(result.astype(int), expected.astype(int), atol=1)


def test_floats_agree_with_pillow():
    plane = (photo[..., 0] / 255).astype("float32")
    expected = np.asarray(PIL.Image.fromarray(plane).resize((15, 12), PIL.Image.Resampling.BILINEAR))
    result = resized(plane[None, ..., None], (12, 15)).numpy()
    assert result.dtype == np.float32
    assert_allclose(result[0, ..., 0], expected, atol=1e-5)


@pytest.mark.parametrize("size", [(5, 5), (11, 13), (37, 29)])
@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_a_plain_image_stays_as_it_is(size, value):
    images = np.full((2, 8, 8, 1), value, "float32")
    assert (resized(images, size).numpy() == np.float32(value)).all()


@pytest.mark.parametrize("size", [32, (32,), (32, 32, 3), (0, 32), (32.0, 32), "32x32"])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(ValueError, match=r"image_size must be \(height, width\)"):
        check_image_size(size)
