"""Reads what TensorFlow Datasets has prepared, and lets it download and prepare what is not there."""

import contextlib
import itertools
import logging
import os

import numpy as np

from clustr_keras.data.image_dataset import ImageDataset, Split
from clustr_keras.data.resizing import resized

_READ_AT_A_TIME = 256


def read_image_dataset(name, data_dir=None, image_size=None):
    """Reads a data set of TensorFlow Datasets into memory; arguments, result and errors are those of `load`."""
    import tensorflow as tf

    builder = _builder(name, data_dir)
    splits = builder.info.splits
    if not {"train", "test"} <= set(splits):
        raise ValueError(
            f"{name} must have the splits train and test; it has {', '.join(sorted(splits)) or 'none'}. "
            "Load it yourself and pass an ImageDataset of two parts of it."
        )
    image, label = _image_and_label(name, builder.info)
    shape = builder.info.features[image].shape
    if shape[-1] is None:
        raise ValueError(f"the images of {name} vary in their number of channels, shape {shape}; expected one number.")
    if image_size is None and None in shape:
        raise ValueError(f"the images of {name} vary in size, shape {shape}. Pass image_size=(height, width).")
    try:
        with _without_warnings():
            train, test = [_read(builder, split, image, label, image_size) for split in ("train", "test")]
    except tf.errors.OpError as error:
        raise ValueError(
            f"the files of {name} in {builder.data_dir} cannot be read: {error.message}. "
            "Delete the folder and load the data set again."
        ) from error
    return ImageDataset(name, Split(*train), Split(*test), tuple(builder.info.features[label].names))


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


def _read(builder, split, image, label, image_size):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    feature = builder.info.features[image]
    is_resized = image_size is not None and tuple(image_size) != feature.shape[:2]

    def converted(example):
        pixels = example[image]
        if pixels.dtype != tf.uint8:
            pixels = tf.image.convert_image_dtype(pixels, tf.float32)
        return resized(pixels, image_size) if is_resized else pixels, example[label]

    dataset = builder.as_dataset(
        split=split,
        shuffle_files=False,
        decoders=tfds.decode.PartialDecoding({image: True, label: True}),
        read_config=tfds.ReadConfig(try_autocache=False),
    )
    dataset = dataset.map(converted, num_parallel_calls=tf.data.AUTOTUNE).batch(_READ_AT_A_TIME).prefetch(2)
    count = builder.info.splits[split].num_examples
    size = image_size or feature.shape[:2]
    images = np.empty((count, *size, feature.shape[-1]), "uint8" if feature.np_dtype == np.uint8 else "float32")
    labels = np.empty(count, "int64")
    start = 0
    for some_images, some_labels in dataset.as_numpy_iterator():
        end = start + len(some_labels)
        images[start:end], labels[start:end] = some_images, some_labels
        start = end
    return images, labels


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
