"""What a client returns: the outputs of the serving contract, by name and type."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np

from clustr_keras.serving.errors import ServingError
from clustr_keras.types import Bools, Floats, Ints


@dataclass(frozen=True, eq=False)
class Prediction:
    """Classes of a batch, each with the radius within which it is proved not to change.

    Attributes:
        class_ids: int64 `[B]`; -1 where the example is invalid.
        class_names: str `[B]`.
        probabilities: float32 `[B, classes]`.
        certified_radius: float32 `[B]`, in the l2 norm of the input; None if the model was exported without a
            certificate.
        is_valid: bool `[B]`: whether the example is finite and within [0, 1].
    """

    class_ids: Ints
    class_names: np.ndarray
    probabilities: Floats
    certified_radius: Floats | None
    is_valid: Bools


@dataclass(frozen=True, eq=False)
class Certification(Prediction):
    """A prediction with what its certificate rests on.

    Attributes:
        logits: float32 `[B, classes]`, the distance logits.
        runner_up_class_ids: int64 `[B]`: the class that is nearest after the predicted one.
        nearest_cluster: `[B]`: the cluster of the predicted class that is nearest.
        lipschitz_bound: float32 `[B]`, the same for all.
    """

    logits: Floats
    runner_up_class_ids: Ints
    nearest_cluster: Ints
    lipschitz_bound: Floats


@dataclass(frozen=True, eq=False)
class RadiusCheck:
    """Whether each prediction of a batch is certified at the radius that was asked for.

    Attributes:
        class_ids: int64 `[B]`.
        is_certified: bool `[B]`: valid, and `certified_radius` is at least the radius asked for.
        certified_radius: float32 `[B]`.
        is_valid: bool `[B]`.
    """

    class_ids: Ints
    is_certified: Bools
    certified_radius: Floats
    is_valid: Bools


@dataclass(frozen=True, eq=False)
class Embedding:
    """Embeddings of a batch.

    Attributes:
        embeddings: float32 `[B, D]`; 0 where the example is invalid.
        is_valid: bool `[B]`.
    """

    embeddings: Floats
    is_valid: Bools


Result: TypeAlias = Prediction | RadiusCheck | Embedding


def from_outputs(result_type: type[Result], outputs: Mapping[str, np.ndarray]) -> Result:
    """A result of one of the types above, of the outputs of a signature.

    Args:
        result_type: The class.
        outputs: Name to array; names that the class lacks are left out.

    Returns:
        An instance.

    Raises:
        ServingError: FAILED_PRECONDITION, if the signature lacks an output: it is not one of this package's.
    """
    names = [field.name for field in fields(result_type)]
    optional = {"certified_radius"} if result_type is Prediction else set()
    missing = [name for name in names if name not in outputs and name not in optional]
    if missing:
        raise ServingError(
            "FAILED_PRECONDITION",
            f"the signature has no outputs {missing}, which {result_type.__name__} needs; it has {sorted(outputs)}. "
            "Use Client.call for models that clustr_keras did not export.",
        )
    arrays: dict[str, Any] = {name: outputs.get(name) for name in names}
    return result_type(**arrays)


def with_text(outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs with their strings decoded.

    Args:
        outputs: Name to array; strings as object arrays of `bytes`.

    Returns:
        A dictionary with the same arrays, strings as arrays of `str`; those whose name ends in `_bytes`, or that turn
        out to be binary, as they were.
    """
    return {name: _decoded(array, name) for name, array in outputs.items()}


def _decoded(array, name):
    if array.dtype != object or name.endswith("_bytes"):
        return array
    try:
        text = [value.decode() for value in array.ravel()]
    except UnicodeDecodeError:
        return array
    return np.array(text, dtype=str).reshape(array.shape)
