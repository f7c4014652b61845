"""A model as a worker holds it: images or files in, columns of certificates out."""

import json
import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import clustr_keras
from clustr_keras.bulk.examples import Examples
from clustr_keras.bulk.files import local_copy
from clustr_keras.certification import as_arrays
from clustr_keras.classifier import ClustrClassifier
from clustr_keras.data.checks import check_image_shape
from clustr_keras.data.pixels import as_floats
from clustr_keras.serving.decoding import declared_pixels, decode_images
from clustr_keras.serving.encoded_images import MAX_PIXELS
from clustr_keras.serving.model_card import MODEL_CARD
from clustr_keras.serving.validity import without_invalid

_COLUMNS = ("class_ids", "runner_up_class_ids", "nearest_cluster", "certified_radius", "radius", "is_valid")


class DeployedModel:
    """Certifies images in batches of one size, so that a row does not depend on how many images there are.

    Args:
        path: A `.keras` file of a `ClustrClassifier`, or the folder of a version that `export_model` wrote.
        method: As for `ClustrClassifier.certify`.
        resize: Whether encoded images of another size are resized; they are invalid otherwise.
        batch_size: Integer.
        max_pixels: Largest number of pixels that an encoded image may declare, 2**24 by default; others are invalid.

    Attributes:
        image_shape: `(H, W, C)`.
        class_names: C strings.

    Raises:
        ValueError: If it is no such model, nothing can be proved of it, or an argument does not go with it.
    """

    def __init__(
        self,
        path: str,
        method: str | None = None,
        resize: bool = False,
        batch_size: int = 256,
        max_pixels: int | None = None,
    ) -> None:
        self.batch_size = batch_size
        self.resize = resize
        self.max_pixels = max_pixels or MAX_PIXELS
        local = local_copy(path)
        if os.path.isdir(local):
            if method is not None or resize or max_pixels is not None:
                settled = "--method, --resize and --max-pixels were settled"
                raise ValueError(f"{settled} when {path} was exported. Leave them out.")
            of_images, of_files = self._load_export(local)
        else:
            of_images, of_files = self._load_keras(local, method)
        images = tf.TensorSpec([batch_size, *self.image_shape], tf.float32)
        self._declared_pixels = _compiled(declared_pixels, tf.TensorSpec([], tf.string))
        self._of_images = _compiled(of_images, images)
        self._of_files = of_files and _compiled(of_files, tf.TensorSpec([batch_size], tf.string))

    def certify(self, examples: Examples) -> dict[str, Any]:
        """Certifies the images of a shard.

        Args:
            examples: `Examples` of N images.

        Returns:
            Dict: arrays `[N]` `class_ids`, `runner_up_class_ids`, `nearest_cluster`, `certified_radius` and `radius`
            (either may be missing), `is_valid`; and a list `errors`, `None` for valid images.

        Raises:
            ValueError: If the images are arrays of another shape, or files and the model has neither 1 nor 3 channels.
        """
        images = examples.images
        if isinstance(images, list):
            if self._of_files is None:
                raise ValueError(f"only images of 1 or 3 channels can be decoded; the model takes {self.image_shape}.")
            files = np.array(images, dtype=object)
            answers = [self._of_files(tf.constant(list(batch), tf.string)) for batch in self._batches(files, b"")]
        else:
            check_image_shape(images.shape, self.image_shape)
            batches = self._batches(images, np.zeros(self.image_shape, images.dtype))
            # Without the checks of as_floats, which would refuse a whole batch.
            answers = [self._of_images(b if b.dtype != np.uint8 else as_floats(b)) for b in batches]
        answers = [as_arrays(answer) for answer in answers]
        joined: dict[str, Any] = {
            name: np.concatenate([answer[name] for answer in answers])[: len(examples)] for name in answers[0]
        }
        read_errors = examples.errors or [None] * len(examples)
        joined["is_valid"] &= np.array([error is None for error in read_errors])
        joined["errors"] = [
            None if valid else error or self._reason(images[row])
            for row, (valid, error) in enumerate(zip(joined["is_valid"], read_errors, strict=True))
        ]
        return joined

    def _load_keras(self, path, method):
        # A worker may have begun with any module of ours.
        clustr_keras.register_for_deserialization()
        model = keras.models.load_model(path)
        if not isinstance(model, ClustrClassifier):
            raise ValueError(f"--model must hold a ClustrClassifier; {path} holds a {type(model).__name__}.")
        self.image_shape, self.class_names = model.backbone.input_shape[1:], model.class_names
        if None in self.image_shape:
            raise ValueError(f"--model must take images of one size; {path} takes {model.backbone.input_shape}.")
        certifier = model.certifier(method)

        def of_images(images):
            valid_images, is_valid = without_invalid(images)
            outputs = certifier(valid_images, training=False)
            return {name: outputs[name] for name in _COLUMNS if name in outputs} | {"is_valid": is_valid}

        def of_files(files):
            return of_images(decode_images(files, self.image_shape, self.max_pixels, self.resize))

        return of_images, of_files if self.image_shape[-1] in (1, 3) else None

    def _load_export(self, path):
        if not os.path.isfile(os.path.join(path, "saved_model.pb")):
            inside = ", ".join(sorted(os.listdir(path))[:10]) or "nothing"
            raise ValueError(f"--model {path} must be a .keras file or hold saved_model.pb; it holds {inside}.")
        loaded = tf.saved_model.load(path)
        if "certify" not in loaded.signatures:
            raise ValueError(f"--model {path} has no signature certify; it has {', '.join(loaded.signatures)}.")
        certify = loaded.signatures["certify"]
        self._owner = loaded  # signatures live as long as what was loaded does
        self.image_shape = tuple(certify.structured_input_signature[1]["images"].shape[1:])
        with open(os.path.join(path, MODEL_CARD)) as file:
            card = json.load(file)
        self.class_names = card["class_names"]
        self.resize, self.max_pixels = card["encoded_images"]["resized"], card["encoded_images"]["max_pixels"]

        def of(signature, name):
            def answer(inputs):
                outputs = signature(**{name: inputs})
                return {column: outputs[column] for column in _COLUMNS if column in outputs}

            return answer

        encoded = loaded.signatures.get("certify_encoded")
        return of(certify, "images"), encoded and of(encoded, "image_bytes")

    def _batches(self, values, filler):
        """Batches of one size; the last one is filled up."""
        missing = -len(values) % self.batch_size
        filling = np.array([filler] * missing, values.dtype).reshape(missing, *values.shape[1:])
        filled = np.concatenate([values, filling])
        return np.split(filled, len(filled) // self.batch_size)

    def _reason(self, image):
        """Why an image, or its file, is invalid."""
        if not isinstance(image, bytes):
            return "a pixel is not finite, or leaves [0, 1]"
        pixels = int(self._declared_pixels(image))
        if pixels > self.max_pixels:
            return f"{pixels} pixels; no more than {self.max_pixels} are decoded, see --max-pixels"
        if self.resize:
            return "no PNG or JPEG that can be decoded"
        height, width, channels = self.image_shape
        return f"no PNG or JPEG that decodes to {height} x {width} pixels of {channels} channels"


def _compiled(function, signature):
    return tf.function(function, input_signature=[signature], autograph=False)
