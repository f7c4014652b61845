"""Stores `mnist10k` where TensorFlow Datasets finds it: MNIST's 10,000 test images, 2,000 of them for the test.

Run: python benchmarks/store_mnist10k.py --data-dir DIR. Downloads MNIST by `keras.datasets`.

Small enough for comparisons on two cores: the benchmarks train on its 8,000 images.
"""

import argparse

import keras
import tensorflow as tf
import tensorflow_datasets as tfds

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    folder = parser.parse_args().data_dir
    _, (images, labels) = keras.datasets.mnist.load_data()
    splits = {
        split: tf.data.Dataset.from_tensor_slices(
            {"image": images[rows, ..., None], "label": labels[rows].astype("int64")}
        )
        for split, rows in (("train", slice(8000)), ("test", slice(8000, None)))
    }
    features = {"image": tfds.features.Image(shape=(28, 28, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
    tfds.dataset_builders.store_as_tfds_dataset(
        name="mnist10k",
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets=splits,
        data_dir=folder,
        disable_shuffling=True,
    )
    print(f"Stored mnist10k in {folder}.")
