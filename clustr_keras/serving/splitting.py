"""Batches of any size as requests of bounded size, and their answers as one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from clustr_keras.serving.errors import ServingError
from clustr_keras.types import Floats


def row_bytes(array: np.ndarray, number_bytes: int, string_bytes: Callable[[Any], int]) -> Floats:
    """About how many bytes each row of an array takes in a request.

    Args:
        array: Of rank 1 at least; strings as an object array.
        number_bytes: Bytes that a number takes.
        string_bytes: Function of a string: the bytes that it takes.

    Returns:
        Floats `[B]`.
    """
    if array.dtype == object:
        return np.array([sum(map(string_bytes, row)) for row in array.reshape(len(array), -1)], dtype=float)
    return np.full(len(array), number_bytes * array[:1].size, dtype=float)


def split(
    inputs: Mapping[str, np.ndarray], bytes_of_rows: Floats, max_rows: int, max_bytes: int
) -> Iterator[dict[str, np.ndarray]]:
    """Parts of a batch, each as large as the limits allow.

    Args:
        inputs: Name to array, all with the same first axis `B`.
        bytes_of_rows: Floats `[B]`.
        max_rows: Most rows in a part.
        max_bytes: Most bytes in a part. A row that is larger goes alone: only the server knows whether it is too large.

    Yields:
        Dictionaries as `inputs`, in order.
    """
    ends = np.cumsum(bytes_of_rows)
    start = 0
    while start < len(ends):
        sent = ends[start - 1] if start else 0.0
        fitting = int(np.searchsorted(ends, sent + max_bytes, side="right"))
        stop = max(start + 1, min(start + max_rows, fitting))
        yield {name: array[start:stop] for name, array in inputs.items()}
        start = stop


def join(answers: Sequence[Mapping[str, np.ndarray]], rows: int) -> Mapping[str, np.ndarray]:
    """One answer of those to the parts of a batch.

    Args:
        answers: List of dictionaries, name to array, in the order of the parts.
        rows: How many rows the batch has.

    Returns:
        A dictionary, name to array.

    Raises:
        ServingError: ABORTED if the answers do not fit together; FAILED_PRECONDITION if an output has not one row for
            each of the batch.
    """
    try:
        outputs = answers[0] if len(answers) == 1 else _concatenate(answers)
    except (KeyError, ValueError) as error:
        raise ServingError(
            "ABORTED",
            f"the answers to the {len(answers)} parts of this batch do not fit together ({error}): the model's version "
            "changed between them. Send it again, or choose a version or label.",
        ) from error
    for name, array in outputs.items():
        if array.shape[:1] != (rows,):
            raise ServingError(
                "FAILED_PRECONDITION",
                f'output "{name}" has shape {list(array.shape)} for {rows} examples: the first axis must be theirs. '
                "Use call() for signatures that do not work by example.",
            )
    return outputs


def _concatenate(answers):
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
