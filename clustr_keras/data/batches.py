"""Batches of a split in an order that is a function of seed and epoch."""

from collections.abc import Callable

import keras
import numpy as np

from clustr_keras.data.augmentation import batch_generator
from clustr_keras.data.image_dataset import Split
from clustr_keras.data.pixels import as_floats
from clustr_keras.integers import checked_integer
from clustr_keras.types import Floats, Ints


class ImageBatches(keras.utils.PyDataset):
    """Shuffled, augmented batches `(images, labels)` for `fit`, the same ones after a resume.

    The order of the examples is a function of seed and epoch, and a batch with its augmentation one of seed, epoch and
    index, whichever were made before. `epoch` counts the epochs of `fit`. To resume, set it before:

    >>> batches.epoch = 3
    >>> model.fit(batches, initial_epoch=3, epochs=10)

    `fit` of any model but a `ClustrClassifier` needs `shuffle=False`, or it puts the batches in an order of its own.
    None takes `steps_per_epoch`, since an epoch is all of the batches. For evaluation make another
    `ImageBatches(split, batch_size, shuffle=False)`: evaluating on the batches of the training would count as an epoch.

    Args:
        split: A `Split`, such as `load("cifar10").train`.
        batch_size: Integer, at least 1.
        augmentation: Called as `augmentation(images, rng)` on each batch as it is stored, such as `CropAndFlip()`.
        shuffle: Whether to shuffle, in every epoch anew.
        seed: Integer, at least 0.
        drop_remainder: Whether to leave out a last batch smaller than the others.

    Attributes:
        epoch: Integer, the epoch of the batches that are given now.

    Output shape:
        Images float32 `[B, H, W, C]` in [0, 1], labels `[B]`.

    Raises:
        ValueError: If an argument is out of range, the images are not as `as_floats` takes them, there is no batch, or
            `fit` is seen to shuffle.

    Example:

    >>> batches = ImageBatches(cifar10.train, 240, augmentation=default_augmentation("cifar10"))
    >>> model.fit(batches, epochs=90)
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        augmentation: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_remainder: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(split, Split):
            raise ValueError(
                f"split must be a Split; got a {type(split).__name__}. Pass dataset.train or dataset.test."
            )
        checked_integer("batch_size", batch_size, 1)
        if drop_remainder and len(split) < batch_size:
            raise ValueError(
                f"{len(split)} examples make no batch of {batch_size}. Pass a smaller batch_size or keep the rest."
            )
        checked_integer("seed", seed, 0)
        if split.images.dtype != np.uint8:
            as_floats(split.images)  # all are checked once, before training
        self.split = split
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.shuffle = shuffle
        self.seed = seed
        self.drop_remainder = drop_remainder
        self.epoch = 0
        self._is_reset_due = self._is_first_due = False
        self._epoch_and_order: tuple[int, Ints] | None = None

    @property
    def epoch(self) -> int:
        """Integer, the epoch of the batches that are given now."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        checked_integer("epoch", epoch, 0)
        self._epoch = epoch

    @property
    def workers(self) -> int:
        """0: one thread makes the batches.

        With more, Keras keeps batches that were made ahead when an epoch is cut short, as it does to build the model,
        and gives them in the next one, instead of others.
        """
        # Read when fit starts and never again, which nothing else tells on every backend; see on_epoch_end.
        self._is_reset_due = True
        return 0

    @property
    def num_batches(self) -> int:
        """Number of batches in an epoch."""
        full, remainder = divmod(len(self.split), self.batch_size)
        return full + (remainder > 0 and not self.drop_remainder)

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> tuple[Floats, Ints]:
        """Makes the batch of an index in the current epoch."""
        if not 0 <= index < self.num_batches:
            raise IndexError(f"index must lie in 0..{self.num_batches - 1}; got {index}.")
        if self._is_first_due:
            self._is_first_due = False
            if index != 0:
                raise ValueError(
                    f"fit must take the batches in their order; it began with batch {index}. Pass shuffle=False to "
                    "fit: it would shuffle by a seed that no resume knows, and the examples are shuffled here."
                )
        epoch = self._epoch
        chosen = self._order(epoch)[index * self.batch_size : (index + 1) * self.batch_size]
        images = self.split.images[chosen]
        if self.augmentation is not None:
            images = self.augmentation(images, batch_generator(self.seed, epoch, index))
        return as_floats(images), self.split.labels[chosen]

    def on_epoch_begin(self) -> None:
        """Called by `fit`."""
        self._is_first_due = True

    def on_epoch_end(self) -> None:
        """Called by `fit` after each epoch, and once before the first one, when it resets its iterator."""
        if not self._is_reset_due:
            self._epoch += 1
        self._is_reset_due = False

    def _order(self, epoch):
        if not self.shuffle:
            return np.arange(len(self.split))
        known = self._epoch_and_order
        if known is None or known[0] != epoch:
            # The fourth number keeps the stream apart from those of the batches, which end in an implied 0.
            rng = np.random.default_rng([self.seed, epoch, 0, 1])
            known = self._epoch_and_order = epoch, rng.permutation(len(self.split))
        return known[1]
