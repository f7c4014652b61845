"""Cost of orthogonality: a training step of the Lipschitz MLP against plain Dense layers, and condensed inference.

Steps are compared under Adam, under `orthogonal_optimizer`, and as each is usual: plain layers under Adam, ours not.

Run: python benchmarks/certified_step.py
"""

import statistics
import time

import keras
import numpy as np
import tensorflow as tf
from results import machine, write_results

from clustr_keras import ClustrClassifier
from clustr_keras.backbones import lipschitz_mlp
from clustr_keras.lipschitz import MaxMin, condense, orthogonal_optimizer

INPUT_SHAPE = (28, 28, 1)
WIDTHS = (512, 512, 256, 128)
ROUNDS = 15
SEED = 0


def plain_mlp():
    """The network of `lipschitz_mlp`, with plain Dense layers."""
    layers = [keras.Input(INPUT_SHAPE), keras.layers.Flatten()]
    for width in WIDTHS[:-1]:
        layers += [keras.layers.Dense(width), MaxMin()]
    return keras.Sequential([*layers, keras.layers.Dense(WIDTHS[-1])])


def seconds(functions):
    """Median seconds per call of each function; the functions take turns."""
    times = {name: [] for name in functions}
    for round_number in range(ROUNDS + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(5):
                function()
            if round_number:  # the first one compiles
                times[name].append((time.perf_counter() - start) / 5)
    return {name: statistics.median(of_function) for name, of_function in times.items()}


def row(run, batch_size, times):
    """One line of the table, of seconds with plain layers and with ours."""
    plain, ours = times["plain"], times["ours"]
    return {
        "run": run,
        "batch": batch_size,
        "plain_ms": round(1e3 * plain, 2),
        "ours_ms": round(1e3 * ours, 2),
        "ratio": round(ours / plain, 3),
        "seed": SEED,
        **machine(),
    }


def training(batch_size, plain_optimizer, our_optimizer):
    """A step of `train_on_batch` with the certified margin loss."""
    rng = np.random.default_rng(SEED)
    images = tf.constant(rng.uniform(size=(batch_size, *INPUT_SHAPE)), "float32")
    labels = tf.constant(rng.integers(0, 10, size=batch_size), "int32")
    steps = {}
    networks = (("plain", plain_mlp(), plain_optimizer), ("ours", lipschitz_mlp(INPUT_SHAPE, WIDTHS), our_optimizer))
    for name, backbone, make_optimizer in networks:
        model = ClustrClassifier(backbone, num_classes=10)
        model.compile(make_optimizer(2e-3), metrics=[])
        steps[name] = lambda model=model: model.train_on_batch(images, labels)
    names = " and ".join(type(make()).__name__ for make in (plain_optimizer, our_optimizer))
    return row(f"training step, {names}", batch_size, seconds(steps))


def inference(batch_size):
    """A compiled forward pass."""
    images = tf.constant(np.random.default_rng(SEED).uniform(size=(batch_size, *INPUT_SHAPE)), "float32")
    passes = {}
    for name, network in (("plain", plain_mlp()), ("ours", condense(lipschitz_mlp(INPUT_SHAPE, WIDTHS)))):
        forward = tf.function(lambda x, network=network: network(x, training=False))
        passes[name] = lambda forward=forward: forward(images)
    return row("condensed inference", batch_size, seconds(passes))


if __name__ == "__main__":
    adam, muon = keras.optimizers.Adam, orthogonal_optimizer
    pairs = ((adam, adam), (muon, muon), (adam, muon))
    rows = [training(batch_size, *pair) for pair in pairs for batch_size in (128, 512, 1024, 2048)]
    rows += [inference(batch_size) for batch_size in (32, 256)]
    write_results(__file__, rows)
