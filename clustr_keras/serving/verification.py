"""Checks an export the way ModelServer will run it: in another process, through a session, warm-up requests first.

Run: python -m clustr_keras.serving.verification FOLDER INPUTS OUTPUTS, with INPUTS and OUTPUTS the .npz files that
`verify_export` writes and reads.
"""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from clustr_keras.serving.loaded_model import DEFAULT_SIGNATURE
from clustr_keras.serving.warmup import read_warmup


class SavedModelSession:
    """A SavedModel as ModelServer runs it: its graph in a session, fed and fetched by the names of the signatures.

    Runs through a callable of the C API, since `Session.run` checks shapes in Python, which the server does not.

    Args:
        folder: `pathlib.Path` of the version folder.
    """

    def __init__(self, folder):
        self.graph = tf.Graph()
        with self.graph.as_default():
            self.session = tf.compat.v1.Session(graph=self.graph)
            self.meta_graph = tf.compat.v1.saved_model.load(self.session, ["serve"], str(folder))

    def __call__(self, signature_name, **inputs):
        """Name to array, for all outputs of a signature."""
        signature = self.meta_graph.signature_def[signature_name or DEFAULT_SIGNATURE]
        outputs = sorted(signature.outputs)
        options = config_pb2.CallableOptions(
            feed=[signature.inputs[key].name for key in inputs], fetch=[signature.outputs[key].name for key in outputs]
        )
        run = self.session._make_callable_from_options(options)
        return dict(zip(outputs, run(*inputs.values()), strict=True))


def verify_export(folder, signatures, images):
    """Compares an export with the live model on images, in a fresh process and at the same batch size.

    Args:
        folder: `pathlib.Path` of the version folder.
        signatures: The `Signatures` that were exported.
        images: Floats `[B, H, W, C]` in [0, 1].

    Raises:
        ValueError: If it does not load, a warm-up request fails, or an output differs in any bit.
    """
    name = "certify" if signatures.is_certified else DEFAULT_SIGNATURE
    function, spec = next(endpoint[1:] for endpoint in signatures.endpoints() if endpoint[0] == name)
    live = tf.function(function, input_signature=spec)(tf.constant(images))
    with tempfile.TemporaryDirectory() as scratch:
        inputs, outputs = pathlib.Path(scratch, "inputs.npz"), pathlib.Path(scratch, "outputs.npz")
        np.savez(inputs, images=images, signature_name=name)
        command = [sys.executable, "-m", "clustr_keras.serving.verification", folder, inputs, outputs]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ValueError(f"the export does not run as ModelServer would run it: {reason}")
        served = dict(np.load(outputs, allow_pickle=True))
    for key, value in live.items():
        different = np.flatnonzero(_rows(value.numpy()) != _rows(served[key]))
        if len(different):
            raise ValueError(
                f"the export's {key} differs from the live model's in {len(different)} of {len(images)} examples, "
                f"example {different[0]} first: {served[key][different[0]]} in place of {value[different[0]]}."
            )


def _rows(array):
    """The bytes of each example, so that comparing them compares every bit."""
    return np.array([repr(row) if array.dtype == object else np.asarray(row).tobytes() for row in array], dtype=object)


def _main(folder, inputs, outputs):
    run = SavedModelSession(folder)
    for index, (signature_name, request) in enumerate(read_warmup(folder)):
        try:
            run(signature_name, **request)
        except Exception as error:
            sys.exit(f"warm-up request {index} fails, and the model is not loaded: {' '.join(str(error).split())}")
    asked = np.load(inputs)
    np.savez(outputs, **run(str(asked["signature_name"]), images=asked["images"]))


if __name__ == "__main__":
    _main(*sys.argv[1:])
