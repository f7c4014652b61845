"""The signatures of an exported model: the serving contract."""

import io
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np
import PIL.Image
import tensorflow as tf

from clustr_keras.certification import Certifier
from clustr_keras.serving.decoding import decode_images
from clustr_keras.serving.encoded_images import MAX_PIXELS
from clustr_keras.serving.uncertified import Uncertified
from clustr_keras.serving.validity import without_invalid
from clustr_keras.types import Floats, Tensor

Endpoint: TypeAlias = tuple[str, Callable[..., dict[str, Tensor]], list[tf.TensorSpec]]
"""Name, function and input signature of a signature."""


def example_inputs(specs: Iterable[tf.TensorSpec], images: Floats) -> dict[str, np.ndarray]:
    """Inputs of a signature that ask for images.

    Args:
        specs: Its input signature, see `Signatures.endpoints`.
        images: Floats `[B, H, W, C]` in [0, 1]; those that are sent as files are rounded to 8 bits.

    Returns:
        Name to array; radii run from 0 to 1.
    """
    make = {
        "images": lambda: images,
        "radius": lambda: np.linspace(0.0, 1.0, len(images), dtype="float32"),
        "image_bytes": lambda: np.array(list(map(_png, images)), dtype=object),
    }
    return {spec.name: make[spec.name]() for spec in specs}


def _png(image):
    file = io.BytesIO()
    pixels = np.round(255.0 * image).astype("uint8")
    PIL.Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
    return file.getvalue()


class Signatures:
    """A deployed model with the signatures of the serving contract.

    Every signature checks the size of its images, judges each example by itself (`is_valid`: finite and in [0, 1]), and
    masks what it says of an invalid one: class -1, an empty name, zeros, radius 0.

    Args:
        model: `Certifier` with a certified radius; or `Uncertified`, of which only `serving_default` and `embed` are
            left, without a radius.
        image_shape: `(H, W, C)`.
        class_names: C strings.
        max_pixels: Largest number of pixels that an encoded image may declare.
        resize: Whether encoded images of another size are resized; they are invalid otherwise.
    """

    def __init__(
        self,
        model: Certifier | Uncertified,
        image_shape: Sequence[int],
        class_names: Sequence[str],
        max_pixels: int = MAX_PIXELS,
        resize: bool = False,
    ) -> None:
        self.model = model
        self.is_certified = isinstance(model, Certifier)
        self.image_shape = tuple(image_shape)
        self.class_names = list(class_names)
        self.max_pixels = max_pixels
        self.resize = resize
        # Traced once, and called by all signatures.
        images = tf.TensorSpec([None, *self.image_shape], tf.float32, "images")
        self._answer = tf.function(self._answer_of_any, input_signature=[images], autograph=False)

    def endpoints(self) -> list[Endpoint]:
        """`(name, function, input signature)` of each."""
        images = tf.TensorSpec([None, *self.image_shape], tf.float32, "images")
        radius = tf.TensorSpec([None], tf.float32, "radius")
        image_bytes = tf.TensorSpec([None], tf.string, "image_bytes")
        endpoints: list[Endpoint] = [("serving_default", self.predict, [images]), ("embed", self.embed, [images])]
        if self.is_certified:
            endpoints += [("certify", self.certify, [images]), ("certify_at", self.certify_at, [images, radius])]
        if self.is_certified and self.image_shape[-1] in (1, 3):
            endpoints += [("certify_encoded", self.certify_encoded, [image_bytes])]
        return endpoints

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """Class, probabilities, certified radius and validity."""
        answer = self._answer(images)
        names = ("class_ids", "class_names", "probabilities", "certified_radius", "is_valid")
        return {name: answer[name] for name in names if name in answer}

    def certify(self, images: Tensor) -> dict[str, Tensor]:
        """All of `predict`, and the logits, the runner-up, the nearest cluster and the Lipschitz bound."""
        answer = self._answer(images)
        del answer["embeddings"]
        return answer

    def certify_at(self, images: Tensor, radius: Tensor) -> dict[str, Tensor]:
        """Whether each example is certified at the radius it asks for."""
        radius = tf.ensure_shape(radius, [None])
        same = tf.debugging.assert_equal(
            tf.shape(radius)[0], tf.shape(images)[0], "radius must have one entry for each image"
        )
        with tf.control_dependencies([same]):
            answer = self._answer(images)
        asked = tf.math.is_finite(radius) & (radius >= 0.0)
        return {
            "class_ids": answer["class_ids"],
            "is_certified": answer["is_valid"] & asked & (answer["certified_radius"] >= radius),
            "certified_radius": answer["certified_radius"],
            "is_valid": answer["is_valid"],
        }

    def certify_encoded(self, image_bytes: Tensor) -> dict[str, Tensor]:
        """`certify` of PNG or JPEG files."""
        return self.certify(decode_images(image_bytes, self.image_shape, self.max_pixels, self.resize))

    def embed(self, images: Tensor) -> dict[str, Tensor]:
        """Embeddings and validity."""
        answer = self._answer(images)
        return {"embeddings": answer["embeddings"], "is_valid": answer["is_valid"]}

    def _answer_of_any(self, images):
        images, is_valid = without_invalid(tf.ensure_shape(images, [None, *self.image_shape]))
        outputs = self.model(images, training=False)
        class_ids = tf.where(is_valid, tf.cast(outputs["class_ids"], tf.int64), -1)

        def only_valid(values, otherwise=0):
            mask = tf.reshape(is_valid, [-1] + [1] * (len(values.shape) - 1))
            return tf.where(mask, values, tf.cast(otherwise, values.dtype))

        answer = {
            "class_ids": class_ids,
            "class_names": tf.where(is_valid, tf.gather(self.class_names, tf.maximum(class_ids, 0)), ""),
            "probabilities": only_valid(outputs["probabilities"]),
            "is_valid": is_valid,
            "embeddings": only_valid(outputs["embeddings"]),
        }
        if not self.is_certified:
            return answer
        return answer | {
            "certified_radius": only_valid(outputs["certified_radius"]),
            "logits": only_valid(outputs["logits"]),
            "runner_up_class_ids": only_valid(tf.cast(outputs["runner_up_class_ids"], tf.int64), -1),
            "nearest_cluster": only_valid(tf.cast(outputs["nearest_cluster"], tf.int64), -1),
            "lipschitz_bound": tf.fill(tf.shape(class_ids), tf.constant(self.model.bound.value, tf.float32)),
        }
