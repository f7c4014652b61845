"""Data sets of TensorFlow Datasets."""

import functools
import os
from collections.abc import Iterator

import numpy as np

from clustr_keras.bulk.examples import Examples
from clustr_keras.bulk.files import absolute
from clustr_keras.bulk.inputs.splits import chosen_splits
from clustr_keras.bulk.shards import ranges


class Prepared:
    """Splits of a data set that TensorFlow Datasets has prepared, decoded by it; ids are `cifar10/3.0.2/test/17`.

    The index is the position in the split's files, one after the other.

    Args:
        name: As for `clustr_keras.data.load`.
        data_dir: Folder of prepared data sets.
        split: Such as `test` or `train+test`; all by default.
        image_size: `(H, W)` to resize to; as stored by default.

    Raises:
        ValueError, FileNotFoundError: As `clustr_keras.data.load`.
    """

    def __init__(
        self,
        name: str,
        data_dir: str | os.PathLike[str] | None = None,
        split: str | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        self.name = name
        self.data_dir = None if data_dir is None else absolute(data_dir)
        self.image_size = image_size
        source = self._source()
        known = source.builder.info.splits
        self.full_name = source.builder.info.full_name
        self.splits = {name: known[name].num_examples for name in chosen_splits(split, tuple(known), name)}
        self.facts = {"data set": self.full_name, "splits": self.splits, "image_size": image_size}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of all images."""
        return self._source().image_shape

    def pieces(self, size: int) -> Iterator[tuple[int, tuple[str, int]]]:
        """Runs of each split."""
        for split, examples in self.splits.items():
            for start, count in ranges(examples, size):
                yield count, (split, start)

    def read(self, place: tuple[str, int], count: int) -> Examples:
        """Decoded images, with labels; one that cannot be decoded is an error of its own."""
        import tensorflow as tf

        split, start = place
        part = f"{split}[{start}:{start + count}]"
        try:
            images, labels = _arrays(self._source().examples(part, in_file_order=True), count)
            errors: list[str | None] = [None] * count
        except tf.errors.OpError:
            images, labels, errors = self._one_by_one(part, count)
        ids = [f"{self.full_name}/{split}/{index}" for index in range(start, start + count)]
        return Examples(ids, labels.tolist(), images=images, errors=errors)

    def _one_by_one(self, part, count):
        """As above; slower, but what one image does stays with it."""
        import tensorflow as tf

        source = self._source()
        files, labels = _arrays(source.examples(part, decoded=False, in_file_order=True), count)
        images = np.zeros((count, *source.image_shape), "uint8")
        errors: list[str | None] = [None] * count
        images = images if source.feature.np_dtype == np.uint8 else images.astype("float32")
        for index, file in enumerate(files):
            try:
                images[index] = source.as_pixels(source.feature.decode_example(file))
            except (tf.errors.OpError, ValueError) as error:
                errors[index] = f"cannot be decoded: {str(error).splitlines()[0]}"
        return images, labels, errors

    def _source(self):
        return _source(self.name, self.data_dir, self.image_size)


def _arrays(examples, count):
    ((images, labels),) = examples.batch(count).as_numpy_iterator()
    return images, labels


@functools.lru_cache(maxsize=4)
def _source(name, data_dir, image_size):
    """Once in each process."""
    from clustr_keras.data.prepared import PreparedImages

    return PreparedImages(name, data_dir, image_size)
