"""Loads image classification data sets by name."""

from collections.abc import Sequence
from os import PathLike

from clustr_keras.data.digits import CLASS_NAMES, load_digits
from clustr_keras.data.image_dataset import ImageDataset, Split
from clustr_keras.data.prepared import read_image_dataset
from clustr_keras.data.resizing import check_image_size, resized


def load(
    name: str, data_dir: str | PathLike[str] | None = None, image_size: Sequence[int] | None = None
) -> ImageDataset:
    """Loads an image classification data set into memory.

    `digits` comes with scikit-learn. Any other name is one of TensorFlow Datasets, such as `cifar10`, `cifar100`,
    `svhn_cropped`, `mnist` or `fashion_mnist`, with a configuration and a version if need be (`name/config:1.0.0`).
    What lies prepared in `data_dir` is read from there, whichever version it is and whether or not TensorFlow Datasets
    knows the name. What does not is downloaded and prepared there.

    Args:
        name: Name of the data set.
        data_dir: Folder of prepared data sets; that of TensorFlow Datasets by default.
        image_size: `(H, W)` to resize all images to; as stored by default.

    Returns:
        An `ImageDataset`: images `[N, H, W, C]`, uint8 where they are stored so, else float32 in [0, 1]; labels int64
        `[N]`. Splits other than `train` and `test` are left out.

    Raises:
        FileNotFoundError: If the data set is neither prepared nor can be downloaded.
        ValueError: If it has no split `train` or `test`, does not consist of images and class labels, its files are
            broken, or its images vary in size and `image_size` is not given.

    Example:

    >>> cifar10 = load("cifar10")
    >>> cifar10.train.images.shape, cifar10.class_names[:2]
    ((50000, 32, 32, 3), ("airplane", "automobile"))

    Reference:
        TensorFlow Datasets, https://www.tensorflow.org/datasets.
    """
    check_image_size(image_size)
    if name != "digits":
        return read_image_dataset(name, data_dir, image_size)
    train, test = (Split(*part) for part in load_digits())
    if image_size is not None:
        train, test = (Split(resized(part.images, image_size).numpy(), part.labels) for part in (train, test))
    return ImageDataset(name, train, test, CLASS_NAMES)
