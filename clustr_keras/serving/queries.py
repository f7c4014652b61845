"""What can be asked of the serving contract: arguments checked, inputs made of them, the answer's type."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clustr_keras.serving.results import (
    Certification,
    Embedding,
    Prediction,
    RadiusCheck,
    Result,
    from_outputs,
    with_text,
)
from clustr_keras.serving.splitting import join
from clustr_keras.types import ArrayLike, Floats


@dataclass(frozen=True, eq=False)
class Query:
    """One call of a signature.

    Attributes:
        signature: Its name.
        inputs: Name to array; strings as object arrays.
        result_type: A class of `results.py`, whose signatures work by example; None for the outputs as they are, of a
            signature that nothing is known about.
    """

    signature: str
    inputs: dict[str, np.ndarray]
    result_type: type[Result] | None = None

    @property
    def is_batch(self) -> bool:
        """Whether the inputs may be split along the first axis."""
        return self.result_type is not None

    def result(self, answers: Sequence[Mapping[str, np.ndarray]]) -> Result | dict[str, np.ndarray]:
        """The result, of the outputs for each part of the batch."""
        if self.result_type is None:
            return with_text(answers[0])
        rows = len(next(iter(self.inputs.values())))
        return from_outputs(self.result_type, with_text(join(answers, rows)))


def predict(images: ArrayLike, signature: str) -> Query:
    """Query for a `Prediction`."""
    return Query(signature, {"images": as_images(images)}, Prediction)


def certify(images: ArrayLike) -> Query:
    """Query for a `Certification`."""
    return Query("certify", {"images": as_images(images)}, Certification)


def certify_encoded(files: Iterable[bytes]) -> Query:
    """Query for a `Certification` of images that are still encoded."""
    return Query("certify_encoded", {"image_bytes": _files(files)}, Certification)


def certify_at(images: ArrayLike, radius: ArrayLike) -> Query:
    """Query for a `RadiusCheck`."""
    images = as_images(images)
    radius = np.asarray(radius, dtype=np.float32)
    if radius.shape not in ((), images.shape[:1]):
        raise ValueError(f"radius must be a scalar or have shape {images.shape[:1]}; got {radius.shape}.")
    radius = np.array(np.broadcast_to(radius, images.shape[:1]))
    return Query("certify_at", {"images": images, "radius": radius}, RadiusCheck)


def embed(images: ArrayLike) -> Query:
    """Query for an `Embedding`."""
    return Query("embed", {"images": as_images(images)}, Embedding)


def call(signature: str, inputs: Mapping[str, ArrayLike]) -> Query:
    """Query for the outputs of any signature."""
    return Query(signature, {name: _array(value) for name, value in inputs.items()})


def as_images(images: ArrayLike) -> Floats:
    """Images as signatures take them.

    Args:
        images: Floats `[B, H, W, C]`.

    Returns:
        float32 `[B, H, W, C]`.

    Raises:
        ValueError: If it is anything else.
    """
    images = np.asarray(images)
    if images.ndim != 4 or not images.shape[0]:
        raise ValueError(
            f"images must have shape [B, H, W, C] with at least one image; got shape {list(images.shape)}. "
            "For a single image pass images[None]."
        )
    if images.dtype.kind != "f":
        raise ValueError(f"images must be floats in [0, 1]; got {images.dtype}. Divide 8-bit pixels by 255.0 first.")
    return images.astype(np.float32, copy=False)


def _files(files):
    if isinstance(files, bytes | str):
        raise ValueError("files must be a list of bytes, one for each image; for a single image pass [file].")
    files = list(files)
    if not files:
        raise ValueError("files must hold at least one image; got none.")
    for index, file in enumerate(files):
        if not isinstance(file, bytes):
            raise ValueError(
                f"files must hold PNG or JPEG images as bytes; got {type(file).__name__} at index {index}. "
                "Pass pathlib.Path(path).read_bytes() for a path."
            )
    return np.array(files, dtype=object)


def _array(value):
    array = np.asarray(value)
    if array.dtype.kind in "US":
        array = np.asarray(value, dtype=object)  # from the value: NumPy's own strings have lost their trailing zeros
    if array.dtype == object and not all(isinstance(item, str | bytes) for item in array.ravel()):
        raise ValueError("inputs must be arrays of numbers, booleans or strings; got an array of other Python objects.")
    return array
