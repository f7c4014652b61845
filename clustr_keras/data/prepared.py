"""Reads what TensorFlow Datasets has prepared, and lets it download and prepare what is not there."""

import contextlib
import itertools
import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from clustr_keras.data.image_dataset import ImageDataset, Split
from clustr_keras.data.resizing import resized
from clustr_keras.types import Ints, Tensor

if TYPE_CHECKING:
    import tensorflow as tf

_READ_AT_A_TIME = 256


def read_image_dataset(
    name: str, data_dir: str | os.PathLike[str] | None = None, image_size: Sequence[int] | None = None
) -> ImageDataset:
    """Reads a data set of TensorFlow Datasets into memory; arguments, result and errors are those of `load`."""
    import tensorflow as tf

    source = PreparedImages(name, data_dir, image_size)
    splits = source.builder.info.splits
    if not {"train", "test"} <= set(splits):
        raise ValueError(
            f"{name} must have the splits train and test; it has {', '.join(sorted(splits)) or 'none'}. "
            "Load it yourself and pass an ImageDataset of two parts of it."
        )
    try:
        with _without_warnings():
            train, test = map(source.read, ("train", "test"))
    except tf.errors.OpError as error:
        raise ValueError(
            f"the files of {name} in {source.builder.data_dir} cannot be read: {error.message}. "
            "Delete the folder and load the data set again."
        ) from error
    return ImageDataset(name, Split(*train), Split(*test), source.class_names)


class PreparedImages:
    """Images and class ids of a data set that lies prepared, now if not before.

    Args:
        name, data_dir, image_size: As for `load`.

    Attributes:
        builder: Its TFDS builder.
        image_shape: `(H, W, C)` of all images.

    Raises:
        FileNotFoundError, ValueError: As `load`.
    """

    def __init__(
        self, name: str, data_dir: str | os.PathLike[str] | None = None, image_size: Sequence[int] | None = None
    ) -> None:
        self.builder = _builder(name, data_dir)
        features = self.builder.info.features
        self.image_key, self.label_key = _image_and_label(name, self.builder.info)
        self.feature = features[self.image_key]
        shape = self.feature.shape
        if shape[-1] is None:
            raise ValueError(
                f"the images of {name} vary in their number of channels, shape {shape}; expected one number."
            )
        if image_size is None and None in shape:
            raise ValueError(
                f"the images of {name} vary in size, shape {shape}. Pass image_size=(height, width); in the shell "
                "--image-size."
            )
        self.image_shape = (*(image_size or shape[:2]), shape[-1])
        self._is_resized = image_size is not None and tuple(image_size) != shape[:2]

    @property
    def class_names(self) -> tuple[str, ...]:
        """C strings."""
        return tuple(self.builder.info.features[self.label_key].names)

    def examples(self, split: str, decoded: bool = True, in_file_order: bool = False) -> "tf.data.Dataset":
        """A `tf.data.Dataset` of `(image, label)`, in the same order every time.

        Args:
            split: Name of a split, or part of one, such as `test[100:200]`.
            decoded: Whether images are decoded (and resized); encoded as they are stored otherwise.
            in_file_order: Whether the files of a split are read one after the other, so that the examples of its parts
                are those of the whole. TFDS takes turns between files otherwise, which is faster.
        """
        import tensorflow as tf
        import tensorflow_datasets as tfds

        image, label = self.image_key, self.label_key
        decoders = tfds.decode.PartialDecoding({image: True, label: True})
        if not decoded:
            decoders = tfds.decode.PartialDecoding(
                {image: True, label: True}, decoders={image: tfds.decode.SkipDecoding()}
            )
        order = {"interleave_cycle_length": 1} if in_file_order else {}
        dataset = self.builder.as_dataset(
            split=split,
            shuffle_files=False,
            decoders=decoders,
            read_config=tfds.ReadConfig(try_autocache=False, **order),
        )
        pixels = self.as_pixels if decoded else tf.identity
        return dataset.map(
            lambda example: (pixels(example[image]), example[label]), num_parallel_calls=tf.data.AUTOTUNE
        )

    def as_pixels(self, image: Tensor) -> Tensor:
        """An image as it is used: uint8 where it is stored so, else float32 in [0, 1]; of the size asked for."""
        import tensorflow as tf

        if image.dtype != tf.uint8:
            image = tf.image.convert_image_dtype(image, tf.float32)
        return resized(image, self.image_shape[:2]) if self._is_resized else image

    def read(self, split: str) -> tuple[np.ndarray, Ints]:
        """Images and labels of a split, as arrays."""
        dataset = self.examples(split).batch(_READ_AT_A_TIME).prefetch(2)
        count = self.builder.info.splits[split].num_examples
        images = np.empty((count, *self.image_shape), "uint8" if self.feature.np_dtype == np.uint8 else "float32")
        labels = np.empty(count, "int64")
        start = 0
        for some_images, some_labels in dataset.as_numpy_iterator():
            end = start + len(some_labels)
            images[start:end], labels[start:end] = some_images, some_labels
            start = end
        return images, labels


def _builder(name, data_dir):
    """The TFDS builder of a data set that lies prepared, now if not before."""
    import tensorflow_datasets as tfds

    place = os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR)
    try:
        with _without_warnings():
            # From the files first: the code may know another version only, or no such name.
            with contextlib.suppress(tfds.core.DatasetNotFoundError):
                return tfds.core.read_only_builder.builder_from_files(name, data_dir=place)
            builder = tfds.builder(name, data_dir=place)
    except tfds.core.DatasetNotFoundError as error:
        raise FileNotFoundError(
            f"there is no data set {name!r}: {place} holds {_names_in(place)}, and TensorFlow Datasets does not know "
            "the name. Correct the name, or pass the data_dir that holds the data set."
        ) from error
    try:
        builder.download_and_prepare()
    except Exception as error:  # whatever the data set's own script may raise
        raise FileNotFoundError(
            f"{name} does not lie prepared in {place}, which holds {_names_in(place)}, and TensorFlow Datasets could "
            f"not download and prepare it: {type(error).__name__}: {error}. Pass the data_dir that holds it, or load "
            f"it on a machine with a network and copy the folder {builder.name} of the data_dir there to {place}."
        ) from error
    return builder


def _names_in(place):
    names = [entry.name for entry in os.scandir(place) if entry.is_dir()] if os.path.isdir(place) else []
    return ", ".join(sorted(set(names) - {"downloads"})) or "no data set"


def _image_and_label(name, info):
    """Keys of the image and of its class label: those the data set names, or the only ones there are."""
    from tensorflow_datasets import features as kinds

    images = [key for key, feature in info.features.items() if isinstance(feature, kinds.Image)]
    labels = [key for key, feature in info.features.items() if isinstance(feature, kinds.ClassLabel)]
    pairs = list(itertools.product(images, labels))
    if info.supervised_keys in pairs:
        return info.supervised_keys
    if len(pairs) == 1:
        return pairs[0]
    found = ", ".join(f"{key}: {' '.join(repr(feature).split())}" for key, feature in info.features.items())
    vectors = [key for key, f in info.features.items() if type(f) is kinds.Tensor and len(f.shape) == 1]
    if pairs:
        way_out = "Set supervised_keys of the data set to the two that are meant."
    elif images and vectors:
        way_out = f"If {vectors[0]} is one-hot, store its argmax as a ClassLabel."
    else:
        way_out = "Only sets for image classification can be loaded."
    raise ValueError(f"{name} must have an Image and a ClassLabel as its features; it has {found}. {way_out}")


@contextlib.contextmanager
def _without_warnings():
    """TFDS warns about its own deprecated parts and about folders that it looked into in vain."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
