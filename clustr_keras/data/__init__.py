"""Data sets and checks of what goes into a model."""

from clustr_keras.data.augmentation import CropAndFlip, RandomAffine, batch_generator, default_augmentation
from clustr_keras.data.batches import ImageBatches
from clustr_keras.data.digits import load_digits
from clustr_keras.data.image_dataset import ImageDataset, Split
from clustr_keras.data.loading import load
from clustr_keras.data.pixels import as_floats
from clustr_keras.data.sampling import random_rows

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
