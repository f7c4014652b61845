"""Checks an export the way ModelServer will run it: in another process, through a session, warm-up requests first.

Run: python -m clustr_keras.serving.verification FOLDER SCRATCH, with SCRATCH a folder of `<signature>.inputs.npz`,
beside which it writes `<signature>.outputs.npz`.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from clustr_keras.serving.model_description import DEFAULT_SIGNATURE
from clustr_keras.serving.signatures import Signatures, example_inputs
from clustr_keras.serving.warmup import read_warmup
from clustr_keras.types import Floats


class SavedModelSession:
    """A SavedModel as ModelServer runs it: its graph in a session, fed and fetched by the names of the signatures.

    Runs through a callable of the C API, since `Session.run` checks shapes in Python, which the server does not.

    Args:
        folder: `pathlib.Path` of the version folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.graph = tf.Graph()
        with self.graph.as_default():
            self.session = tf.compat.v1.Session(graph=self.graph)
            self.meta_graph = tf.compat.v1.saved_model.load(self.session, ["serve"], str(folder))
        # TensorFlow optimizes the graph for each one that is made.
        self._runs: dict[tuple[str, tuple[str, ...]], Callable[..., Any]] = {}

    def __call__(self, signature_name: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Name to array, for all outputs of a signature."""
        signature = self.meta_graph.signature_def[signature_name or DEFAULT_SIGNATURE]
        feed = tuple(signature.inputs[key].name for key in inputs)
        outputs = sorted(signature.outputs)
        if (signature_name, feed) not in self._runs:
            fetch = [signature.outputs[key].name for key in outputs]
            options = config_pb2.CallableOptions(feed=feed, fetch=fetch)
            self._runs[signature_name, feed] = self.session._make_callable_from_options(options)
        return dict(zip(outputs, self._runs[signature_name, feed](*inputs.values()), strict=True))


def verify_export(folder: pathlib.Path, signatures: Signatures, images: Floats) -> None:
    """Compares an export with the live model on images, in a fresh process and at the same batch size.

    Args:
        folder: `pathlib.Path` of the version folder.
        signatures: The `Signatures` that were exported.
        images: Floats `[B, H, W, C]` in [0, 1].

    Raises:
        ValueError: If it does not load, a warm-up request fails, or an output of any signature differs in any bit.
    """
    endpoints = [
        (name, function, specs, example_inputs(specs, images)) for name, function, specs in signatures.endpoints()
    ]
    with tempfile.TemporaryDirectory() as scratch:
        for name, _, _, inputs in endpoints:
            _save(pathlib.Path(scratch, f"{name}.inputs.npz"), inputs)
        command = [sys.executable, "-m", "clustr_keras.serving.verification", str(folder), scratch]
        # On the CPU: this process may hold all memory of a GPU.
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ValueError(f"the export does not run as ModelServer would run it: {reason}")
        for name, function, specs, inputs in endpoints:
            with tf.device("/CPU:0"):
                live = tf.function(function, input_signature=specs, autograph=False)(*map(tf.constant, inputs.values()))
            served = dict(np.load(pathlib.Path(scratch, f"{name}.outputs.npz"), allow_pickle=True))
            _compare(name, {key: value.numpy() for key, value in live.items()}, served)


def _save(path, arrays):
    np.savez(path, **arrays)


def _compare(name, live, served):
    if live.keys() != served.keys():
        raise ValueError(f"the export's signature {name} gives {sorted(served)}; the live model {sorted(live)}.")
    for key, expected in live.items():
        different = np.flatnonzero(_rows(expected) != _rows(served[key]))
        if len(different):
            first = different[0]
            raise ValueError(
                f"{key} of the export's signature {name} differs from the live model's in {len(different)} of "
                f"{len(expected)} examples, example {first} first: {served[key][first]} in place of {expected[first]}."
            )


def _rows(array):
    """The bytes of each example, so that comparing them compares every bit."""
    return np.array([repr(row) if array.dtype == object else np.asarray(row).tobytes() for row in array], dtype=object)


def _main(folder, scratch):
    run = SavedModelSession(folder)
    for index, (signature_name, request) in enumerate(read_warmup(folder)):
        try:
            run(signature_name, **request)
        except Exception as error:
            sys.exit(f"warm-up request {index} fails, and the model is not loaded: {' '.join(str(error).split())}")
    for inputs in pathlib.Path(scratch).glob("*.inputs.npz"):
        name = inputs.name.removesuffix(".inputs.npz")
        _save(inputs.with_name(f"{name}.outputs.npz"), run(name, **np.load(inputs, allow_pickle=True)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
