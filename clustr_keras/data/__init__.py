"""Data sets and checks of what goes into a model.

Names load on first use, so that a data set can be planned with where neither Keras nor TensorFlow has been imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clustr_keras.data.augmentation import CropAndFlip, RandomAffine, batch_generator, default_augmentation
    from clustr_keras.data.batches import ImageBatches
    from clustr_keras.data.digits import load_digits
    from clustr_keras.data.image_dataset import ImageDataset, Split
    from clustr_keras.data.loading import load
    from clustr_keras.data.pixels import as_floats
    from clustr_keras.data.sampling import random_rows

_HOMES = {
    "CropAndFlip": "augmentation",
    "ImageBatches": "batches",
    "ImageDataset": "image_dataset",
    "RandomAffine": "augmentation",
    "Split": "image_dataset",
    "as_floats": "pixels",
    "batch_generator": "augmentation",
    "default_augmentation": "augmentation",
    "load": "loading",
    "load_digits": "digits",
    "random_rows": "sampling",
}

__all__ = [
    "CropAndFlip",
    "ImageBatches",
    "ImageDataset",
    "RandomAffine",
    "Split",
    "as_floats",
    "batch_generator",
    "default_augmentation",
    "load",
    "load_digits",
    "random_rows",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_HOMES)}.")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
