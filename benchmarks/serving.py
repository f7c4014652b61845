"""Serving against calling the SavedModel in process: throughput, latency, and where the time goes.

Run: python benchmarks/serving.py [--seconds S]. Writes results/serving.*.

Certified networks on 32x32 images (weights as they were made: time does not depend on them) are exported with their
certificate and without. `clustr serve` runs in a process of its own; this process is the client, and the one that calls
the SavedModel. All that is compared is measured in turns, several rounds of it; the median round is shown, and the
median of the ratios within a round. "Throughput / in process" is that of the best number of threads in process.
"""

import argparse
import concurrent.futures
import contextlib
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import httpx
import keras
import numpy as np
import tensorflow as tf
from prometheus_client.parser import text_string_to_metric_families
from results import machine, write_results

from clustr_keras import ClustrClassifier
from clustr_keras.backbones import lipschitz_convnet, lipschitz_mlp
from clustr_keras.serving import export_model, run_load_test
from clustr_keras.serving.endpoint import ModelChoice
from clustr_keras.serving.grpc_requests import GrpcRequests
from clustr_keras.serving.signatures import Signatures
from clustr_keras.serving.uncertified import Uncertified

CLUSTR = pathlib.Path(sys.executable).with_name("clustr")
IMAGE_SHAPE = (32, 32, 3)
ROUNDS = 7
CALLERS = 4


@contextlib.contextmanager
def served(directory):
    """`clustr serve` on a directory: its gRPC target and its REST address."""
    command = [CLUSTR, "serve", directory, "--grpc-port", "0", "--rest-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            grpc = re.fullmatch(r"gRPC +(\S+)\n", server.stdout.readline())[1]
            yield grpc, re.fullmatch(r"REST +(http://[^/]+)/\S+\n", server.stdout.readline())[1]
        finally:
            server.send_signal(signal.SIGTERM)


def in_process(function, images, seconds, threads):
    """Calls a signature again and again: latencies in milliseconds, and calls per second."""
    batch, latencies = tf.constant(images), []
    end = time.perf_counter() + seconds

    def call():
        while time.perf_counter() < end:
            start = time.perf_counter()
            {name: value.numpy() for name, value in function(images=batch).items()}
            latencies.append(1e3 * (time.perf_counter() - start))

    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: call(), range(threads)))
    return latencies, len(latencies) / (time.perf_counter() - start)


def over_the_wire(target, signature, images, batch_size, seconds, callers):
    """The same through a server."""
    result = run_load_test(
        target,
        images,
        signature=signature,
        batch_size=batch_size,
        concurrency=callers,
        requests=10**6,
        seconds=seconds,
        timeout=60.0,
    )
    assert not result.errors, result.errors
    return [result.p50_ms], result.requests_per_second


def runtime(rest):
    """Microseconds and number of the batches that a server has run."""
    page = httpx.get(f"{rest}/monitoring/prometheus/metrics", trust_env=False).text
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    name = ":tensorflow:serving:runtime_latency"
    return [next(s.value for s in samples if s.name == f"{name}_{what}") for what in ("sum", "count")]


def time_apart(grpc, rest, images, seconds):
    """Milliseconds of a `certify` request over gRPC: encoding it, computing, decoding the answer, and the rest."""
    import grpc as grpc_package
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    requests = GrpcRequests(ModelChoice("clustr", None, None))
    parts = {"encode": [], "call": [], "decode": []}
    before = runtime(rest)
    with grpc_package.insecure_channel(grpc, options=[("grpc.max_receive_message_length", -1)]) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            times = [time.perf_counter()]
            request = requests.predict("certify", {"images": images})
            times.append(time.perf_counter())
            response = stub.Predict(request.message)
            times.append(time.perf_counter())
            request.read(response)
            times.append(time.perf_counter())
            for name, start, stop in zip(parts, times, times[1:], strict=False):
                parts[name].append(1e3 * (stop - start))
    after = runtime(rest)
    means = {name: statistics.mean(values) for name, values in parts.items()}
    compute = 1e-3 * (after[0] - before[0]) / (after[1] - before[1])
    return {
        "encode": means["encode"],
        "compute": compute,
        "wire and queue": means["call"] - compute,
        "decode": means["decode"],
    }


def in_turns(measures):
    """Runs measures in turns; for each a list of median latency and throughput by round."""
    found = {name: [] for name in measures}
    for _ in range(ROUNDS):
        for name, measure in measures.items():
            latencies, throughput = measure()
            found[name].append((statistics.median(latencies), throughput))
    return found


def medians(rounds):
    """Median latency and throughput of rounds."""
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def times_of(rounds, others):
    """Median over the rounds of the ratio of latencies."""
    return statistics.median(own[0] / other[0] for own, other in zip(rounds, others, strict=True))


def exported(backbone, images, folder):
    """Folder of a certified version, functions of images to compare, and what has to live as long as they do."""
    model = ClustrClassifier(backbone, 10)
    certified = export_model(model, pathlib.Path(folder, "certified"), verify_on=images)
    plain = export_model(model, pathlib.Path(folder, "plain"), certificate=False)
    loaded, of_plain = (tf.saved_model.load(str(path)) for path in (certified, plain))
    same_backbone = Signatures(Uncertified(model.certifier().backbone, model.head), IMAGE_SHAPE, model.class_names)
    specs = [tf.TensorSpec([None, *IMAGE_SHAPE], tf.float32, "images")]
    functions = {
        "plain prediction": tf.function(same_backbone.predict, input_signature=specs),
        "plain prediction, products as Keras sums them": of_plain.signatures["serving_default"],
        "serving_default": loaded.signatures["serving_default"],
        "certify": loaded.signatures["certify"],
    }
    return certified, functions, (model, loaded, of_plain)


def price_of_the_certificate(name, functions, images, seconds):
    """Rows that compare `certify` with predictions without proof, in process.

    `plain prediction` has the certified network's arithmetic, products with short sums; the other one that of the
    condensed Keras layers, for which no radius in float32 is proved.
    """
    measures = {
        key: lambda function=function: in_process(function, images, seconds, 1) for key, function in functions.items()
    }
    found = in_turns(measures)
    return [
        row(name, len(images), key, "in process", medians(rounds), times=times_of(rounds, found["plain prediction"]))
        for key, rounds in found.items()
    ]


def row(name, batch, signature, how, measured, times=None, compared=None):
    """A row of the table, in proportion to other measurements."""
    latency, throughput = measured
    return {
        "backbone": name,
        "batch": batch,
        "signature": signature,
        "how": how,
        "p50_ms": round(latency, 2),
        "images_per_s": round(batch * throughput) if throughput else "",
        "throughput / in process": round(throughput / compared, 2) if compared else "",
        "p50 / plain prediction": round(times, 2) if times else "",
    }


def against_in_process(name, functions, targets, images, seconds):
    """Rows that compare both protocols with calling the SavedModel."""
    measures = {}
    for signature in ("serving_default", "certify"):
        for threads in (1, CALLERS):
            measures[f"in process, {threads} threads", signature] = lambda f=functions[signature], n=threads: (
                in_process(f, images, seconds, n)
            )
        for protocol, target in zip(("gRPC", "REST"), targets, strict=True):
            for callers in (1, CALLERS):
                measures[f"{protocol}, {callers} callers", signature] = lambda t=target, s=signature, n=callers: (
                    over_the_wire(t, s, images, len(images), seconds, n)
                )
    found = {key: medians(rounds) for key, rounds in in_turns(measures).items()}
    best = {}
    for (how, signature), (_, throughput) in found.items():
        if how.startswith("in process"):
            best[signature] = max(throughput, best.get(signature, 0.0))
    rows = [row(name, len(images), s, how, value, compared=best[s]) for (how, s), value in found.items()]
    apart = time_apart(*targets, images, seconds)
    return rows + [
        row(name, len(images), "certify", f"of a gRPC request: {part}", (value, None)) for part, value in apart.items()
    ]


def main(seconds):
    keras.utils.set_random_seed(0)
    images = np.random.default_rng(0).random((64, *IMAGE_SHAPE), dtype="float32")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        name = "lipschitz_mlp 4096-2048"
        _, functions, _alive = exported(lipschitz_mlp(IMAGE_SHAPE, widths=(4096, 2048)), images, f"{folder}/mlp")
        rows += price_of_the_certificate(name, functions, images, seconds)
        name = "lipschitz_convnet 96-192"
        backbone = lipschitz_convnet(IMAGE_SHAPE, channels=(96, 192), dense=(256, 128))
        path, functions, _alive = exported(backbone, images, f"{folder}/convnet")
        rows += price_of_the_certificate(name, functions, images, seconds)
        with served(path.parent) as targets:
            for batch_size in (1, 64):
                rows += against_in_process(name, functions, targets, images[:batch_size], seconds)
    write_results(__file__, [each | machine() for each in rows])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    main(parser.parse_args().seconds)
