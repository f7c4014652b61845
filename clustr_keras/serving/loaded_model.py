"""One version of a model in memory: its signatures, and how to run them."""

import pathlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2

from clustr_keras.serving.errors import CODES, ServingError
from clustr_keras.serving.model_description import DEFAULT_SIGNATURE
from clustr_keras.serving.tensor_json import numpy_dtype
from clustr_keras.serving.tensor_proto import array_from_proto

_TAGS = ["serve"]


@dataclass(frozen=True, eq=False)
class Call:
    """A checked request to one signature.

    Attributes:
        signature_name: Its name.
        inputs: Name to array, defaults included.
        wanted: Names of the outputs to send.
        rows: Examples in it, where the first axis of every input and output is the batch; otherwise `None`.
    """

    signature_name: str
    inputs: dict[str, np.ndarray]
    wanted: list[str]
    rows: int | None

    def only_wanted(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Those of all outputs that are to be sent."""
        return {name: outputs[name] for name in self.wanted}


class LoadedModel:
    """A SavedModel that answers requests, from any number of threads.

    Args:
        path: `pathlib.Path` of the version's folder, which holds `saved_model.pb`.
        version: The version's number.
        name: The model's name in answers and metrics.

    Raises:
        Exception: Whatever TensorFlow raises for a SavedModel that it cannot load.

    Example:
    >>> model = LoadedModel(Path("serving/clustr/1"), version=1)
    >>> model.run("", {"images": images})["class_ids"]
    array([7, 2, 1])
    """

    def __init__(self, path: pathlib.Path, version: int, name: str = "clustr") -> None:
        """Load; for a large model that takes seconds."""
        self.name = name
        self.version = version
        self.signature_defs = _read_signature_defs(path)
        self._batchable = {name for name, definition in self.signature_defs.items() if _is_batchable(definition)}
        self._model = tf.saved_model.load(str(path), tags=_TAGS)

    def signature_name(self, name: str = "") -> str:
        """The name of a signature that exists: `name`, or `serving_default` where it is empty.

        Raises:
            ServingError: FAILED_PRECONDITION, if there is no such signature.
        """
        name = name or DEFAULT_SIGNATURE
        if name not in self._model.signatures:
            known = sorted(self._model.signatures)
            raise ServingError("FAILED_PRECONDITION", f'signature "{name}" not found; this model has {known}.')
        return name

    def json_dtypes(self, signature_name: str) -> dict[str, np.dtype[Any]]:
        """Inputs of a signature, name to NumPy dtype, as JSON has to be read for it.

        Raises:
            ServingError: FAILED_PRECONDITION for an unknown signature, UNIMPLEMENTED for a type that JSON lacks.
        """
        definition = self.signature_defs[self.signature_name(signature_name)]
        return {
            name: numpy_dtype(types_pb2.DataType.Name(definition.inputs[name].dtype))
            for name in sorted(definition.inputs)
        }

    def run(
        self, signature_name: str, inputs: Mapping[str, np.ndarray], output_filter: Iterable[str] = ()
    ) -> dict[str, np.ndarray]:
        """Run one signature.

        Args:
            signature_name: Its name; empty means `serving_default`.
            inputs: Name to array; strings as `bytes`. Inputs with a default may be left out.
            output_filter: Names of the outputs wanted; empty means all.

        Returns:
            Name to array.

        Raises:
            ServingError: As `prepare` and `execute`.
        """
        call = self.prepare(signature_name, inputs, output_filter)
        return call.only_wanted(self.execute(call.signature_name, call.inputs))

    def prepare(self, signature_name: str, inputs: Mapping[str, np.ndarray], output_filter: Iterable[str] = ()) -> Call:
        """Check a request against its signature, before it waits for a thread or joins others in a batch.

        Args:
            signature_name, inputs, output_filter: As for `run`.

        Returns:
            A `Call`.

        Raises:
            ServingError: FAILED_PRECONDITION for an unknown signature; INVALID_ARGUMENT for names, dtypes or shapes
                that are not the signature's.
        """
        signature_name = self.signature_name(signature_name)
        definition = self.signature_defs[signature_name]
        defaults = {name: array_from_proto(default, name) for name, default in definition.defaults.items()}
        given = {**defaults, **inputs}
        _check_names(definition, given)
        wanted = _wanted_outputs(definition, output_filter)
        for name, array in given.items():
            _check_array(name, array, definition.inputs[name])
        return Call(signature_name, given, wanted, _rows(given) if signature_name in self._batchable else None)

    def execute(self, signature_name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run a signature on inputs that were checked.

        Args:
            signature_name: Its name.
            inputs: Name to array, for all inputs.

        Returns:
            Name to array, for all outputs.

        Raises:
            ServingError: With the code of the TensorFlow error, where the graph itself objects.
        """
        definition = self.signature_defs[signature_name]
        try:
            outputs = self._model.signatures[signature_name](
                **{name: tf.constant(array, dtype=definition.inputs[name].dtype) for name, array in inputs.items()}
            )
        except tf.errors.OpError as error:
            # Around the reason TensorFlow puts where the graph was made, which says nothing to a caller.
            reason = error.message.rpartition("<stack traces unavailable>")[2].partition("[[{{")[0].strip()
            raise ServingError(CODES[error.error_code], reason) from error
        return {name: _array(outputs[name], info) for name, info in definition.outputs.items()}


def _read_signature_defs(path):
    """Signatures of the meta graph that is for serving, as they are stored: with tensor names, for GetModelMetadata."""
    saved_model = saved_model_pb2.SavedModel()
    binary = path / "saved_model.pb"
    if binary.exists():
        saved_model.ParseFromString(binary.read_bytes())
    else:
        text_format.Parse((path / "saved_model.pbtxt").read_text(), saved_model)
    for meta_graph in saved_model.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == set(_TAGS):
            return dict(meta_graph.signature_def)
    tags = [sorted(meta_graph.meta_info_def.tags) for meta_graph in saved_model.meta_graphs]
    raise ValueError(f"a SavedModel must have a graph with the tags {_TAGS}; {path} has {tags}.")


def _is_batchable(definition):
    """Whether the first axis of every input and output is left open: the batch."""
    shapes = [info.tensor_shape for info in (*definition.inputs.values(), *definition.outputs.values())]
    return all(not shape.unknown_rank and shape.dim and shape.dim[0].size == -1 for shape in shapes)


def _rows(inputs):
    rows = {name: len(array) for name, array in inputs.items()}
    if len(set(rows.values())) > 1:
        raise ServingError("INVALID_ARGUMENT", f"all inputs must hold the same number of examples; got {rows}.")
    return next(iter(rows.values()), None)


def _check_names(definition, inputs):
    missing, extra = sorted(definition.inputs.keys() - inputs.keys()), sorted(inputs.keys() - definition.inputs.keys())
    if missing or extra:
        raise ServingError(
            "INVALID_ARGUMENT",
            f"inputs must be {sorted(definition.inputs)}; missing: {missing}; not inputs of this signature: {extra}.",
        )


def _wanted_outputs(definition, output_filter):
    names = list(output_filter) or sorted(definition.outputs)
    unknown = sorted(set(names) - set(definition.outputs))
    if unknown or len(set(names)) < len(names):
        problem = f"has no {unknown}" if unknown else "names an output twice"
        raise ServingError(
            "INVALID_ARGUMENT", f"output_filter {problem}; outputs of this signature: {sorted(definition.outputs)}."
        )
    return names


def _check_array(name, array, info):
    """Against the signature, since a loaded function takes a dtype or rank it was not made for quite far."""
    dtype = tf.dtypes.as_dtype(info.dtype)
    sizes = [axis.size for axis in info.tensor_shape.dim]
    fits = info.tensor_shape.unknown_rank or (
        len(sizes) == array.ndim and all(size in (-1, given) for size, given in zip(sizes, array.shape, strict=True))
    )
    if array.dtype != dtype.as_numpy_dtype or not fits:
        shape = "any shape" if info.tensor_shape.unknown_rank else f"shape {[s if s >= 0 else '?' for s in sizes]}"
        shape = shape.replace("'", "")
        got = "string" if array.dtype == object else array.dtype
        raise ServingError(
            "INVALID_ARGUMENT",
            f'input "{name}" must be {dtype.name} of {shape}; got {got} of shape {list(array.shape)}.',
        )


def _array(tensor, info):
    # A scalar string comes as bare bytes, which NumPy would store without its trailing zeros.
    is_string = info.dtype == types_pb2.DT_STRING
    return np.asarray(tensor.numpy(), dtype=object if is_string else None)
