"""Images and labels in memory, split into training and test."""

import dataclasses

import numpy as np

from clustr_keras.data.checks import check_image_shape, check_labels


def base_name(name: str) -> str:
    """The name of a data set without its configuration and version: `"cifar10"` of `"cifar10/plain:3.0.2"`."""
    return name.partition(":")[0].partition("/")[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images and their class ids.

    Args:
        images: `[N, H, W, C]`, uint8 or floats in [0, 1].
        labels: Integer class ids `[N]`.

    Raises:
        ValueError: If the shapes are others, there is no image, or there is not one label for each image.

    Example:

    >>> split = Split(x_train, y_train)
    >>> len(split)
    1437
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or len(self.images) == 0:
            raise ValueError(f"images must have shape [N, H, W, C] with N at least 1; got {self.images.shape}.")
        if self.labels.shape != (len(self.images),):
            raise ValueError(
                f"labels must be class ids of shape [{len(self.images)}], one for each image; "
                f"got shape {self.labels.shape}. Pass labels.argmax(axis=-1) if they are one-hot."
            )

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return f"Split of {len(self)} images, {self.images.shape[1:]} {self.images.dtype}"


@dataclasses.dataclass(frozen=True, eq=False)
class ImageDataset:
    """An image classification data set in memory.

    Args:
        name: Name that it was loaded by.
        train, test: A `Split` each.
        class_names: C strings; label `i` is the class `class_names[i]`.

    Raises:
        ValueError: If images of the two splits differ in shape or a label leaves `0..C-1`.

    Example:

    >>> digits = load("digits")
    >>> digits.train.images.shape, digits.num_classes
    ((1437, 8, 8, 1), 10)
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        check_image_shape(self.test.images.shape, self.image_shape, "test images")
        check_labels(self.train.labels, self.num_classes, name="training labels")
        check_labels(self.test.labels, self.num_classes, name="test labels")

    @property
    def image_shape(self) -> tuple[int, ...]:
        """`(H, W, C)`."""
        return self.train.images.shape[1:]

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)
