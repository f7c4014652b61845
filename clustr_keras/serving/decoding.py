"""Decodes encoded images inside the graph, one by one, so that a broken one leaves its neighbors alone."""

from collections.abc import Sequence

import tensorflow as tf

from clustr_keras.serving.encoded_images import MAX_PIXELS
from clustr_keras.types import Tensor

# The signature, and the chunk that must come first: its length and its name.
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_JPEG_MAGIC = b"\xff\xd8\xff"
# Real files have a few dozen before the frame; a crafted one could make the walk as long as the file.
_MAX_JPEG_SEGMENTS = 1000


def decode_images(
    image_bytes: Tensor, image_shape: Sequence[int], max_pixels: int = MAX_PIXELS, resize: bool = False
) -> Tensor:
    """Decodes a batch of PNG or JPEG files to floats in [0, 1].

    An entry that is neither PNG nor JPEG by its first bytes, that cannot be decoded, that declares more than
    `max_pixels` (read from its header, before it is decoded) or that has another size than the model's comes back as
    NaN throughout, which every signature reports as invalid. 16-bit PNG is reduced to 8 bits; alpha is dropped.

    Args:
        image_bytes: Strings `[B]`.
        image_shape: `(H, W, C)` of the model, with C 1 or 3.
        max_pixels: Integer.
        resize: Whether images of another size are resized (bilinear, antialiased, which keeps [0, 1]) rather than
            invalid.

    Returns:
        Floats `[B, H, W, C]`.
    """
    height, width, channels = image_shape
    invalid = tf.fill(image_shape, float("nan"))

    def decode(data):
        # The accurate transform is what other decoders use; TensorFlow's default is off by several levels.
        image = tf.cond(
            _is_png(data),
            lambda: tf.io.decode_png(data, channels=channels),
            lambda: tf.io.decode_jpeg(data, channels=channels, dct_method="INTEGER_ACCURATE"),
        )
        fits = tf.reduce_all(tf.equal(tf.shape(image), image_shape))
        image = tf.cast(image, tf.float32) / 255.0
        return tf.cond(fits, lambda: tf.reshape(image, image_shape), lambda: resized(image) if resize else invalid)

    def resized(image):
        image = tf.image.resize(
            tf.reshape(image, [*tf.unstack(tf.shape(image)[:2]), channels]), (height, width), antialias=True
        )
        return tf.clip_by_value(image, 0.0, 1.0)  # rounding may leave it

    def decode_or_nan(data):
        # A data set of one element is the only place in a graph where a failed operation can be let go.
        decoded = tf.data.Dataset.from_tensors(data).map(decode).ignore_errors()
        return decoded.concatenate(tf.data.Dataset.from_tensors(invalid)).take(1).get_single_element()

    def of_entry(data):
        pixels = declared_pixels(data)
        return tf.cond((pixels > 0) & (pixels <= max_pixels), lambda: decode_or_nan(data), lambda: invalid)

    images = tf.map_fn(of_entry, image_bytes, fn_output_signature=tf.TensorSpec(image_shape, tf.float32))
    return tf.ensure_shape(images, [None, height, width, channels])


def declared_pixels(data: Tensor) -> Tensor:
    """Width times height as a PNG or JPEG file declares them in its header, before it is decoded.

    Args:
        data: String `[]`, the file.

    Returns:
        int64 `[]`, 0 for what is neither or is too short.
    """
    is_jpeg = tf.strings.substr(data, 0, len(_JPEG_MAGIC)) == _JPEG_MAGIC
    nothing = tf.constant(0, tf.int64)
    of_jpeg = tf.cond(is_jpeg, lambda: _jpeg_pixels(data), lambda: nothing)
    return tf.cond(_is_png(data), lambda: _png_pixels(data), lambda: of_jpeg)


def _is_png(data):
    return tf.strings.substr(data, 0, len(_PNG_MAGIC)) == _PNG_MAGIC


def _big_endian(data, position, count):
    """Unsigned integer value of `count` bytes of a scalar string, most significant byte first."""
    values = tf.cast(tf.io.decode_raw(tf.strings.substr(data, position, count), tf.uint8), tf.int64)
    return tf.reduce_sum(values * [256**power for power in reversed(range(count))])


def _png_pixels(data):
    """Width times height from a PNG's header, 0 if it is too short."""
    return tf.cond(
        tf.strings.length(data) >= 24,
        lambda: _big_endian(data, 16, 4) * _big_endian(data, 20, 4),
        lambda: tf.constant(0, tf.int64),
    )


def _jpeg_pixels(data):
    """Width times height from a JPEG's frame header, 0 if there is none.

    Walks the segments: each is 0xFF, a marker, and its length; frame headers are 0xC0 to 0xCF but for 0xC4, 0xC8, 0xCC.
    """
    length = tf.strings.length(data)

    def number(position, count):
        return tf.cast(_big_endian(data, position, count), tf.int32)

    def is_frame(marker):
        return (marker >= 0xC0) & (marker <= 0xCF) & (marker != 0xC4) & (marker != 0xC8) & (marker != 0xCC)

    def unfinished(position, pixels):
        return (pixels == 0) & (position + 9 <= length)

    def advance(position, pixels):
        marker = number(position + 1, 1)

        def frame():
            return length, number(position + 5, 2) * number(position + 7, 2)

        def next_segment():
            # Markers without a length may not come before the frame; a decoder would pass over them.
            has_length = (marker >= 0xC0) & ((marker < 0xD0) | (marker > 0xD9))
            is_segment = (number(position, 1) == 0xFF) & has_length
            # 0xFF may be repeated as filler before a marker.
            step = tf.where(marker == 0xFF, 1, 2 + number(position + 2, 2))
            return tf.where(is_segment, position + step, length), pixels

        return tf.cond((number(position, 1) == 0xFF) & is_frame(marker), frame, next_segment)

    start = (tf.constant(2), tf.constant(0))
    return tf.cast(tf.while_loop(unfinished, advance, start, maximum_iterations=_MAX_JPEG_SEGMENTS)[1], tf.int64)
