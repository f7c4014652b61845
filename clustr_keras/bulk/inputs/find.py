"""Finds out what `--input` names."""

import os

from clustr_keras.bulk.files import absolute, files_matching, is_folder, is_remote
from clustr_keras.bulk.inputs.digits import Digits
from clustr_keras.bulk.inputs.folder import Folder
from clustr_keras.bulk.inputs.prepared import Prepared
from clustr_keras.bulk.inputs.tfrecords import TFRecords
from clustr_keras.bulk.source import Source


def find_input(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    split: str | None = None,
    image_size: tuple[int, int] | None = None,
) -> Source:
    """Makes an input of what the command line names.

    Args:
        name: An existing folder (of images), an existing file or a pattern that matches files (TFRecords), or else
            `digits` or a name of TensorFlow Datasets.
        data_dir: Folder of prepared TensorFlow Datasets.
        split: Splits of a data set, such as `test` or `train+test`; all by default.
        image_size: `(H, W)` to resize images of TensorFlow Datasets to; as stored by default.

    Returns:
        An input, see `clustr_keras.bulk.inputs`.

    Raises:
        ValueError: If there are no images in it, or `data_dir` or `split` do not go with it.
        FileNotFoundError: If there is nothing of that name.

    Example:

    >>> find_input("cifar10", split="test").pieces(1024)
    """
    path = absolute(name)
    is_pattern = any(sign in name for sign in "*?")
    if not (is_pattern and is_remote(name)) and is_folder(path):
        found: Source = Folder(path)
    elif is_remote(name) or is_pattern or files_matching(path):
        found = TFRecords(path)
    else:
        return Digits(split) if name == "digits" else Prepared(name, data_dir, split, image_size)
    if data_dir is not None or split is not None:
        raise ValueError(f"--data-dir and --split are for data sets by name; {name} is a path. Leave them out.")
    return found
