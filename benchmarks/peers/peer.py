"""What the training scripts share: command line, data, augmentation, a budget of seconds. Runs on Keras 2 and 3."""

import argparse
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from clock import Timed


def arguments():
    """Command line: the data, the budget, the settings, and where the radii go."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, help=".npz with x_train, y_train, x_test, y_test")
    parser.add_argument("--output", required=True, help=".npz to write")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--settings", type=json.loads, required=True)
    asked = parser.parse_args()
    tf.keras.utils.set_random_seed(asked.seed)
    return asked


def batches(data, batch_size, seed, settings, one_hot=False):
    """The training images, shuffled, in batches.

    Settings: `affine`, bounds of a random map of each image (shift, rotation, scale, shear); `crop_and_flip`, pixels of
    a random shift, with a random flip; `fill_mode`, what is then beyond the edge: "constant" for zeros, by default, or
    "reflect".
    """
    x, y = data["x_train"], data["y_train"].astype("int64")
    if one_hot:
        y = np.eye(y.max() + 1, dtype="float32")[y]
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).cache().shuffle(len(x), seed=seed)
    dataset = dataset.batch(batch_size, drop_remainder=True)
    if "affine" in settings:
        dataset = dataset.map(lambda images, labels: (moved(images, *settings["affine"]), labels))
    if "crop_and_flip" in settings:
        moves = settings["crop_and_flip"], settings.get("fill_mode", "constant")
        dataset = dataset.map(lambda images, labels: (cropped_and_flipped(images, *moves), labels))
    return dataset.prefetch(2)


def moved(images, shift, rotation, scale, shear):
    """The images under `RandomAffine` of this project."""
    batch, height, width, _ = images.shape
    draws = tf.random.uniform((5, batch), -1.0, 1.0)
    angle, sheared = draws[0] * rotation * np.pi / 180.0, shear * draws[1]
    factor = 1.0 + scale * draws[2]
    a0, a1 = factor * tf.cos(angle), sheared - factor * tf.sin(angle)
    b0, b1 = factor * tf.sin(angle), factor * tf.cos(angle)
    x, y = (width - 1) / 2, (height - 1) / 2
    of_x = [a0, a1, x - a0 * x - a1 * y + shift * draws[3]]
    of_y = [b0, b1, y - b0 * x - b1 * y + shift * draws[4]]
    return _mapped(images, [*of_x, *of_y])


def cropped_and_flipped(images, padding, fill_mode):
    """The images under `CropAndFlip` of this project."""
    batch, _, width, _ = images.shape
    shift = tf.cast(tf.random.uniform((2, batch), -padding, padding + 1, "int32"), "float32")
    ones, zeros = tf.ones((batch,)), tf.zeros((batch,))
    is_flipped = tf.random.uniform((batch,)) < 0.5
    of_x = [tf.where(is_flipped, -ones, ones), zeros, shift[0] + tf.where(is_flipped, width - 1.0, 0.0)]
    return _mapped(images, [*of_x, zeros, ones, shift[1]], fill_mode)


def _mapped(images, transforms, fill_mode="constant"):
    """The images at affine maps of their pixels' places."""
    zeros = tf.zeros_like(transforms[0])
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([*transforms, zeros, zeros], axis=-1),
        output_shape=images.shape[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode=fill_mode.upper(),
    )


class Budget(Timed, tf.keras.callbacks.Callback):
    """Ends the training after some seconds; until then the learning rate rises and falls, see `Timed`."""


def write(asked, class_ids, radius, clock, epochs, **more):
    """Writes what the benchmark reads; `more` are arrays."""
    np.savez(
        asked.output,
        class_ids=class_ids,
        radius=np.asarray(radius, "float64"),
        seconds=clock.spent,
        cpu_seconds=clock.cpu,
        epochs=epochs,
        versions=f"TensorFlow {tf.__version__}",
        **more,
    )
