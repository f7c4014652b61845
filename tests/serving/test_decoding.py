import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from clustr_keras.serving.decoding import decode_images

GRAY, COLOR = (8, 8, 1), (6, 9, 3)


def decoder(image_shape, max_pixels=2**24):
    """As a signature does it: in a graph."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def decode_batch(files):
        return decode_images(files, image_shape, max_pixels)

    return lambda files: decode_batch(tf.constant(files, tf.string)).numpy()


DECODERS = {shape: decoder(shape) for shape in (GRAY, COLOR)}


def decode(files, image_shape=GRAY):
    return DECODERS[image_shape](files)


def pixels_of(shape, seed=0, dtype="uint8"):
    generator = np.random.default_rng(seed)
    shape = shape[:2] if shape[2] == 1 else shape
    return generator.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def smooth(shape):
    """A slope, which a JPEG keeps to a level or two."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    gray = (8 * rows + 12 * columns + 40).astype("uint8")
    return gray if shape[2] == 1 else np.stack([gray, 255 - gray, gray // 2], axis=-1)


def encode(pixels, format="PNG", mode=None, **options):  # noqa: A002
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(file, format, **options)
    return file.getvalue()


def with_pil(data, image_shape):
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("L" if image_shape[2] == 1 else "RGB"), "float64") / 255
    return pixels.reshape(image_shape)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(pixels, color_type, depth, *before_data):
    """A PNG written by hand: color types 0 gray, 2 color, 3 palette, 4 gray and alpha, 6 color and alpha."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(">u2" if depth == 16 else "u1"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)),
            *before_data,
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


def is_invalid(image):
    """All NaN, as the contract says; half a decoded image would be neither."""
    assert np.isnan(image).all() or not np.isnan(image).any()
    return np.isnan(image).all()


@pytest.mark.parametrize("shape", [GRAY, COLOR])
def test_a_png_is_decoded_exactly(shape):
    pixels = pixels_of(shape)
    images = decode([encode(pixels)], shape)
    assert images.dtype == np.float32
    assert_array_equal(images, (pixels.reshape(1, *shape) / np.float32(255)).astype("float32"))


@pytest.mark.parametrize("shape", [GRAY, COLOR])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"comment": b"\xff\xc0 no frame" * 1000},
        {"exif": b"Exif\0\0" + b"\xff\xc0\0\x0b" * 9000},
    ],
    ids=["baseline", "progressive", "comment", "exif"],
)
def test_a_jpeg_is_decoded_as_pil_does_it(shape, options):
    data = encode(smooth(shape), "JPEG", quality=95, subsampling=0, **options)
    # To a level: a client that decodes the file itself must get the radius of the same image.
    assert_allclose(decode([data], shape)[0], with_pil(data, shape), atol=1.5 / 255)
    assert_allclose(with_pil(data, shape), smooth(shape).reshape(shape) / 255, atol=8 / 255)


@pytest.mark.parametrize("shape", [GRAY, COLOR])
def test_fill_bytes_between_the_segments_of_a_jpeg_are_legal(shape):
    data = encode(smooth(shape), "JPEG")
    filled = data[:2] + b"\xff" * 5 + data[2:]
    assert_array_equal(decode([filled], shape), decode([data], shape))
    assert not is_invalid(decode([filled], shape)[0])


@pytest.mark.parametrize(("shape", "color_type"), [(GRAY, 0), (COLOR, 2)])
def test_a_png_of_16_bits_is_reduced_to_8(shape, color_type):
    pixels = pixels_of(shape, dtype="uint16")
    image = decode([png(pixels, color_type, 16)], shape)[0]
    assert_allclose(image, pixels.reshape(shape) / 65535, atol=1 / 255)
    assert_array_equal(np.round(image * 255), image * np.float32(255))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(("shape", "color_type"), [(GRAY, 4), (COLOR, 6)])
def test_alpha_is_dropped_and_not_multiplied_in(shape, color_type, depth):
    top = 2**depth - 1
    pixels = pixels_of(shape, dtype=f"uint{depth}").reshape(shape)
    alpha = np.random.default_rng(1).integers(0, top, (*shape[:2], 1), endpoint=True).astype(pixels.dtype)
    alpha[0, 0] = 0
    image = decode([png(np.concatenate([pixels, alpha], axis=-1), color_type, depth)], shape)[0]
    assert_allclose(image, pixels / top, atol=1 / 255 if depth == 16 else 1e-7)


@pytest.mark.parametrize(("shape", "mode"), [(GRAY, "1"), (COLOR, "L"), (COLOR, "P"), (COLOR, "LA"), (GRAY, "RGB")])
def test_other_kinds_of_png_are_converted(shape, mode):
    data = encode(smooth(shape), mode=mode)
    assert_allclose(decode([data], shape)[0], with_pil(data, shape), atol=2.5 / 255)


def test_an_interlaced_png_is_decoded():
    # One pixel is the same with and without interlacing, but for the flag.
    flat = png(np.full((1, 1), 77), 0, 8)
    interlaced = flat[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 1)) + flat[33:]
    assert_array_equal(decoder((1, 1, 1))([flat, interlaced]), np.full((2, 1, 1, 1), np.float32(77) / np.float32(255)))


GOOD = [encode(pixels_of(GRAY, 1)), encode(pixels_of(GRAY, 2), "JPEG")]
BAD = {
    "empty": b"",
    "one byte": b"\x89",
    "garbage": b"not an image at all, but long enough to hold a header" * 3,
    "zeros": bytes(200),
    "GIF": encode(pixels_of(GRAY), "GIF"),
    "BMP": encode(pixels_of(GRAY), "BMP"),
    "WebP": encode(pixels_of(GRAY), "WEBP"),
    "TIFF": encode(pixels_of(GRAY), "TIFF"),
    "only the magic bytes of a PNG": GOOD[0][:8],
    "a PNG up to its header": GOOD[0][:33],
    "a PNG cut in its header": GOOD[0][:20],
    "a truncated PNG": GOOD[0][:-20],
    "a PNG with a flipped bit": GOOD[0][:50] + bytes([GOOD[0][50] ^ 1]) + GOOD[0][51:],
    "only the magic bytes of a JPEG": b"\xff\xd8\xff",
    "a JPEG cut in its frame header": GOOD[1][: GOOD[1].index(b"\xff\xc0") + 6],
    "a JPEG cut after its frame header": GOOD[1][: GOOD[1].index(b"\xff\xc0") + 19],
    "a JPEG without a frame": b"\xff\xd8\xff\xd9",
    "a JPEG of fill bytes": b"\xff\xd8" + b"\xff" * 300,
    "a JPEG with a segment of length 0": b"\xff\xd8\xff\xe0\0\0" * 20,
    "a JPEG with a segment beyond its end": b"\xff\xd8\xff\xe0\xff\xff" + bytes(30),
    "a PNG with the header of a JPEG": b"\xff\xd8\xff" + GOOD[0][3:],
    "a PNG declaring 2^62 pixels": GOOD[0][:16] + b"\x7f\xff\xff\xff" * 2 + GOOD[0][24:],
    "a PNG declaring 2^64 pixels": GOOD[0][:16] + b"\xff\xff\xff\xff" * 2 + GOOD[0][24:],
    "a PNG declaring no pixels": GOOD[0][:16] + bytes(8) + GOOD[0][24:],
    "a JPEG declaring 65535 x 65535": GOOD[1].replace(b"\0\x08\0\x08\x01", b"\xff\xff\xff\xff\x01"),
    "a smaller PNG": encode(pixels_of((7, 8, 1))),
    "a larger JPEG": encode(pixels_of((8, 9, 1)), "JPEG"),
    "a PNG of as many pixels": encode(pixels_of((4, 16, 1))),
    "an enormous PNG": encode(np.zeros((3000, 2000), "uint8")),
}


def test_the_spoilt_files_are_spoilt():
    assert b"\xff\xff\xff\xff\x01" in BAD["a JPEG declaring 65535 x 65535"]
    assert len(set(BAD.values())) == len(BAD)


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_what_cannot_be_decoded_is_invalid_and_leaves_its_neighbors_alone(data):
    images = decode([GOOD[0], data, GOOD[1]])
    assert is_invalid(images[1])
    assert_array_equal(images[[0, 2]], decode(GOOD))
    assert not is_invalid(images[0])
    assert not is_invalid(images[2])


def test_they_are_invalid_all_together():
    images = decode(list(BAD.values()))
    assert np.isnan(images).all()


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_the_declared_size_is_held_against_max_pixels(format):  # noqa: A002
    data = encode(smooth(GRAY), format)
    assert is_invalid(decoder(GRAY, max_pixels=63)([data])[0])
    assert not is_invalid(decoder(GRAY, max_pixels=64)([data])[0])


def test_a_jpeg_cannot_hide_its_size_behind_a_marker_without_length():
    """A decoder passes over 0x01 and 0xD0..0xD7 as they are; read as segments they would skip the true frame."""
    data = encode(smooth(GRAY), "JPEG")
    small = decoder(GRAY, max_pixels=63)
    for marker in (0x01, 0xD0, 0xD7):
        hiding = b"\xff\xd8\xff" + bytes([marker]) + data[2:]
        landing = 4 + int.from_bytes(hiding[4:6], "big")
        hiding += bytes(landing - len(hiding)) + b"\xff\xc0\x00\x0b\x08\x00\x01\x00\x01\x01\x01\x11\x00"
        assert is_invalid(small([hiding])[0]), hex(marker)


def test_a_png_cannot_hide_its_size_behind_another_first_chunk():
    data = encode(smooth(GRAY))
    hiding = data[:8] + chunk(b"prIv", struct.pack(">II", 1, 1)) + data[8:]
    assert is_invalid(decoder(GRAY, max_pixels=63)([hiding])[0])


@pytest.mark.parametrize("shape", [GRAY, COLOR])
def test_an_empty_batch_stays_one(shape):
    assert decode(np.zeros(0, object), shape).shape == (0, *shape)


@settings(max_examples=40)
@given(data=st.data())
def test_no_damage_to_one_file_reaches_another_or_raises(data):
    file = bytearray(data.draw(st.sampled_from(GOOD)))
    for position in data.draw(st.lists(st.integers(0, len(file) - 1), min_size=1, max_size=4)):
        file[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(file))))
    images = decode([GOOD[1], bytes(file[:cut]), GOOD[0]])
    assert_array_equal(images[[0, 2]], decode(GOOD[::-1]))
    if not is_invalid(images[1]):
        assert images[1].min() >= 0
        assert images[1].max() <= 1
