"""Time of a training step in `fit`: on one batch, on `ImageBatches` as Keras takes them, and as `BatchAdapter` does.

python benchmarks/batch_adapter.py [--seconds 15]

Each way in a process of its own, since TensorFlow keeps what a generator sets. Random images of MNIST's size.
"""

import argparse
import json
import subprocess
import sys

import numpy as np
from results import machine, write_results

WAYS = ("one batch", "ImageBatches", "BatchAdapter")


def measured(way, seconds):
    """Seconds, processor seconds and page faults per step of the certified MLP, after the first 20 steps."""
    import resource
    import time

    import keras
    import tensorflow as tf

    from clustr_keras import CertifiedMarginLoss, ClustrClassifier, backbones, lipschitz
    from clustr_keras.data import ImageBatches, RandomAffine, Split

    class Steps(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.count, self.first = 0, None

        def on_train_batch_end(self, batch, logs=None):
            usage = resource.getrusage(resource.RUSAGE_SELF)
            self.now = np.array([time.perf_counter(), usage.ru_utime + usage.ru_stime, usage.ru_minflt])
            self.count += 1
            if self.count == 20:
                self.first = self.now
            elif self.first is not None and self.now[0] - self.first[0] > seconds:
                self.model.stop_training = True

    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(8000, 28, 28, 1), dtype=np.uint8)
    batches = ImageBatches(Split(images, rng.integers(10, size=8000)), 2048, RandomAffine(1.0, 12.0, 0.1, 0.15))
    model = ClustrClassifier(backbones.lipschitz_mlp((28, 28, 1), widths=(512, 512, 256, 128)), num_classes=10)
    model.compile(lipschitz.orthogonal_optimizer(), CertifiedMarginLoss(4.0, 4.0))
    steps = Steps()
    if way == "BatchAdapter":
        model.fit(batches, epochs=10**6, verbose=0, callbacks=[steps])
    elif way == "ImageBatches":
        keras.Model.fit(model, batches, epochs=10**6, verbose=0, shuffle=False, callbacks=[steps])
    else:
        batch = [tf.data.Dataset.from_tensors(batches[index]).repeat() for index in range(len(batches))]
        dataset = tf.data.Dataset.choose_from_datasets(batch, tf.data.Dataset.range(len(batch)).repeat())
        keras.Model.fit(model, dataset.take(len(batch)), epochs=10**6, verbose=0, callbacks=[steps])
    return ((steps.now - steps.first) / (steps.count - 20)).tolist()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.way:
        print(json.dumps(measured(asked.way, asked.seconds)))
        sys.exit()
    rows = []
    for way in WAYS * 2:
        command = [sys.executable, __file__, "--way", way, "--seconds", str(asked.seconds)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        wall, cpu, faults = json.loads(output.strip().splitlines()[-1])
        rows.append(
            {
                "batches": way,
                "step_s": round(wall, 4),
                "cpu_s": round(cpu, 4),
                "page_faults": round(faults),
                **machine(),
            }
        )
        print(rows[-1], flush=True)
    write_results(__file__, rows)
