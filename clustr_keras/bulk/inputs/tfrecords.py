"""TFRecord files of tf.train.Example."""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

from clustr_keras.bulk.examples import Examples
from clustr_keras.bulk.files import files_matching, open_file
from clustr_keras.bulk.inputs.listing import listing_digest
from clustr_keras.bulk.inputs.records import read_records, scan_records
from clustr_keras.bulk.shards import ranges

_IMAGE_KEYS = ("image/encoded", "image")
_LABEL_KEYS = ("image/class/label", "label")


class TFRecords:
    """Records of `tf.train.Example` with an encoded image as `image/encoded` or `image`.

    A class id as `image/class/label` or `label` becomes the row's label. Ids are `name of the file#index`.

    Args:
        pattern: A file, or files by a pattern; what ends in `.gz` is decompressed.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If two have the same name, or one is no TFRecord file.
    """

    def __init__(self, pattern: str) -> None:
        files = files_matching(pattern)
        if not files:
            raise FileNotFoundError(f"--input {pattern} matches no file. Check the path.")
        self.paths = [file.path for file in files]
        names = [os.path.basename(path) for path in self.paths]
        if len(set(names)) < len(names):
            raise ValueError(f"--input {pattern} matches two files of one name, and ids would not be unique.")
        listed = [dataclasses.replace(file, path=name) for file, name in zip(files, names, strict=True)]
        self.facts = {"TFRecord files": len(listed), "listing": listing_digest(listed)}
        self._offsets = list(map(_offsets, self.paths))

    def __getstate__(self) -> dict[str, Any]:
        # A worker learns from its shards where they begin.
        return {"paths": self.paths, "facts": self.facts, "_offsets": None}

    def pieces(self, size: int) -> Iterator[tuple[int, tuple[str, int, int]]]:
        """Runs of records, with the byte at which they begin."""
        for path, offsets in zip(self.paths, self._offsets, strict=True):
            for start, count in ranges(len(offsets), size):
                yield count, (path, start, offsets[start])

    def read(self, place: tuple[str, int, int], count: int) -> Examples:
        """Encoded images; a record that is broken or has none is an error of its own."""
        path, start, offset = place
        name = os.path.basename(path)
        ids = [f"{name}#{index}" for index in range(start, start + count)]
        with open_file(path) as file:
            found = [_image_and_label(record) for record in read_records(file, offset, count)]
        if len(found) < count:
            raise ValueError(f"{path} has become shorter since it was listed. Run again with another --output.")
        files, labels, errors = map(list, zip(*found, strict=True))
        return Examples(ids, labels, images=files, errors=errors)


def _offsets(path):
    with open_file(path) as file:
        return scan_records(file, path)


def _image_and_label(record):
    """Encoded image, label and error of a record; `None` stands for a record whose checksum is wrong."""
    if record is None:
        return b"", None, "the record's checksum is wrong"
    from google.protobuf.message import DecodeError
    from tensorflow.core.example import example_pb2

    try:
        features = example_pb2.Example.FromString(record).features.feature
    except DecodeError:
        return b"", None, "the record is no tf.train.Example"
    labels = [features[key].int64_list.value for key in _LABEL_KEYS if key in features]
    label = next((values[0] for values in labels if len(values) == 1), None)
    images = [features[key].bytes_list.value for key in _IMAGE_KEYS if key in features]
    image = next((values[0] for values in images if len(values) == 1), None)
    if image is None:
        return b"", label, f"the record has no bytes feature {' or '.join(_IMAGE_KEYS)}"
    return image, label, None
