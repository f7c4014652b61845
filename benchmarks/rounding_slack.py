"""What float32 rounding costs: slack and certified accuracy of an MLP on MNIST's test images.

Run: python benchmarks/rounding_slack.py --data-dir DIR, with DIR a TensorFlow Datasets folder that holds `mnist10k`
(train: 8,000 images, test: 2,000 others).
"""

import argparse
import pathlib

import keras
import numpy as np
import tensorflow as tf
from results import machine, write_results

from clustr_keras import CertifiedMarginLoss, ClustrClassifier, lipschitz
from clustr_keras.backbones import lipschitz_mlp
from clustr_keras.certification import Certifier

SEED = 0
EPOCHS = 15


def load(folder, split):
    """Images float32 in [0, 1] and labels of one split, read from the data set's TFRecord."""
    record = next(pathlib.Path(folder).glob(f"mnist10k/*/mnist10k-{split}.tfrecord*"))
    features = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}

    def decode(example):
        parsed = tf.io.parse_single_example(example, features)
        return tf.cast(tf.io.decode_png(parsed["image"], channels=1), tf.float32) / 255.0, parsed["label"]

    images, labels = zip(*tf.data.TFRecordDataset(str(record)).map(decode).as_numpy_iterator(), strict=True)
    return np.stack(images), np.array(labels)


def rows_of(model, images, labels):
    """One row for each way to evaluate the same condensed network."""
    plain = lipschitz.condense(model.backbone)
    ways = {
        "dense layers as they are": Certifier(plain, model.head, lipschitz.bound(plain)),
        "sums in blocks, as deployed": model.certifier("union"),
    }
    for way, certifier in ways.items():
        outputs = certifier.predict(images, batch_size=256, verbose=0)
        is_right = outputs["class_ids"] == labels
        lost = outputs["radius"] - outputs["certified_radius"]
        lost = lost[outputs["certified_radius"] > 0]
        row = {"run": way, "clean": round(float(is_right.mean()), 4)}
        for quantile in (0.0, 0.5, 1.0):
            row[f"slack, quantile {quantile:g}"] = round(float(np.quantile(lost, quantile)), 5)
        for radius in (0.3, 1.0, 1.58):
            with_slack = float((is_right & (outputs["certified_radius"] >= radius)).mean())
            without = float((is_right & (outputs["radius"] >= radius)).mean())
            row[f"certified at {radius}"] = round(with_slack, 4)
            row[f"without slack at {radius}"] = round(without, 4)
        yield {**row, "seed": SEED, **machine()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True)
    folder = parser.parse_args().data_dir
    (x_train, y_train), (x_test, y_test) = load(folder, "train"), load(folder, "test")
    keras.utils.set_random_seed(SEED)
    model = ClustrClassifier(lipschitz_mlp((28, 28, 1), (512, 512, 256, 128)), 10)
    steps = EPOCHS * -(-len(x_train) // 128)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps)), CertifiedMarginLoss(2.0, 2.0)
    )
    model.fit(x_train, y_train, batch_size=128, epochs=EPOCHS, verbose=2)
    write_results(__file__, list(rows_of(model, x_test, y_test)))
