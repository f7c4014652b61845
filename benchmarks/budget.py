"""A budget of seconds for `fit`."""

import pathlib
import sys

import keras

from clustr_keras.data import CropAndFlip, ImageBatches, RandomAffine, Split

sys.path.insert(0, str(pathlib.Path(__file__).parent / "peers"))
from clock import Timed


class Budget(Timed, keras.callbacks.Callback):
    """Ends the training after some seconds; until then the learning rate rises and falls, see `Timed`."""

    def __init__(self, seconds, learning_rate, warmup=0.05):
        super().__init__(seconds, learning_rate, warmup)


def fit_within(budget, model, batches, callbacks=()):
    """Trains until a budget is spent."""
    model.fit(batches, epochs=10**6, verbose=0, callbacks=[budget, *callbacks])


def batches_of(images, labels, settings, seed=0):
    """Training batches by settings of `certified_settings.py`: `batch_size`; `affine`, `crop_and_flip`, `fill_mode`."""
    augmentation = None
    if "affine" in settings:
        augmentation = RandomAffine(*settings["affine"])
    elif "crop_and_flip" in settings:
        augmentation = CropAndFlip(settings["crop_and_flip"], fill_mode=settings.get("fill_mode", "constant"))
    return ImageBatches(Split(images, labels), settings["batch_size"], augmentation, seed=seed)
