"""Time of predict and of certify with each method, for several numbers of classes and clusters.

Run: python benchmarks/certificate_cost.py
"""

import statistics
import time

import numpy as np
import tensorflow as tf
from results import machine, write_results

from clustr_keras import ClustrClassifier
from clustr_keras.backbones import lipschitz_mlp

BATCH = 256
CASES = (
    *((10, clusters, method) for clusters in (1, 4) for method in ("nearest", "union", "exact", "soft")),
    *((100, clusters, method) for clusters, method in ((1, "nearest"), (1, "union"), (2, "exact"), (1, "soft"))),
    *((1000, 1, method) for method in ("nearest", "union", "soft")),
    (1000, 2, "exact"),
)
ROUNDS = 9
SEED = 0


def milliseconds(functions, images):
    """Median time per call of each function; the functions take turns, so that the machine's moods hit all alike."""
    for function in functions:
        function(images)
    times = [[] for _ in functions]
    for _ in range(ROUNDS):
        for function, of_function in zip(functions, times, strict=True):
            calls, start = 0, time.perf_counter()
            while calls < 1 or time.perf_counter() - start < 0.1:
                function(images)
                calls += 1
            of_function.append(1e3 * (time.perf_counter() - start) / calls)
    return [statistics.median(of_function) for of_function in times]


def case(num_classes, clusters, method):
    """Compiled forward pass against compiled forward pass with certificate, on the demo's backbone."""
    model = ClustrClassifier(lipschitz_mlp((8, 8, 1), (256, 256, 64)), num_classes, clusters)
    certifier = model.certifier(method)

    @tf.function
    def predict(images):
        return model(images, training=False)

    @tf.function
    def certify(images):
        return certifier(images, training=False)  # all outputs, so that nothing is pruned

    images = tf.constant(np.random.default_rng(SEED).uniform(size=(BATCH, 8, 8, 1)), tf.float32)
    of_predict, of_certify = milliseconds([predict, certify], images)
    return {
        "run": f"C = {num_classes}, K = {clusters}, {method}, batch {BATCH}",
        "predict_ms": round(of_predict, 3),
        "certify_ms": round(of_certify, 3),
        "ratio": round(of_certify / of_predict, 3),
        "seed": SEED,
        **machine(),
    }


if __name__ == "__main__":
    write_results(__file__, [case(*arguments) for arguments in CASES])
