"""Random changes of training images, as functions of a batch and a random generator."""

import dataclasses
from typing import Literal

import keras
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from clustr_keras.data.image_dataset import base_name
from clustr_keras.integers import checked_integer

# Keras' names, and NumPy's for the same.
_NUMPY_MODES: dict[str, Literal["constant", "symmetric"]] = {"constant": "constant", "reflect": "symmetric"}


@dataclasses.dataclass(frozen=True)
class CropAndFlip:
    """Shifts every image by up to `padding` pixels and mirrors every second one.

    Each image is padded on all four sides, cropped to its old size at a random place, and flipped left to right with
    probability 1/2.

    Args:
        padding: Integer, at least 0.
        flip: Whether to flip.
        fill_mode: What is beyond the edge, as in Keras: `"constant"` for zeros, as the paper has them, or `"reflect"`
            for the mirror image. In l_2 a black border is far from any image that is classified later, which a network
            that must not stretch distances pays for.

    Input shape:
        Images `[B, H, W, C]` as a NumPy array of any type, and a `numpy.random.Generator`.

    Output shape:
        As the images, and of their type.

    Raises:
        ValueError: If `padding` is negative or more than a side that is reflected, there is no such `fill_mode`, or
            the images are not `[B, H, W, C]`.

    Example:

    >>> augment = CropAndFlip(padding=4)
    >>> augment(x_train[:240], batch_generator(seed=0, epoch=3, batch=0)).shape
    (240, 32, 32, 3)

    Reference:
        Alfarra et al., Rethinking Clustering for Robustness, BMVC 2021.
    """

    padding: int = 4
    flip: bool = True
    fill_mode: str = "constant"

    def __post_init__(self) -> None:
        checked_integer("padding", self.padding, 0)
        _check_fill_mode(self.fill_mode)

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Augments a batch; `images` is left as it is."""
        if images.ndim != 4:
            raise ValueError(f"images must have shape [B, H, W, C]; got {images.shape}.")
        batch, height, width, channels = images.shape
        p = self.padding
        if self.fill_mode == "reflect" and p > min(height, width):
            raise ValueError(f"padding is {p}, more than images of {height} x {width} pixels have to reflect.")
        padded = np.pad(images, ((0, 0), (p, p), (p, p), (0, 0)), _NUMPY_MODES[self.fill_mode])
        # With pixels and channels on one axis a row of a crop is one piece of memory: three times as fast.
        crops = sliding_window_view(padded.reshape(batch, height + 2 * p, -1), (height, width * channels), axis=(1, 2))
        top, left = rng.integers(2 * p + 1, size=(2, batch))
        augmented = crops[np.arange(batch), top, left * channels].reshape(images.shape)
        if self.flip:
            is_flipped = rng.random(batch) < 0.5
            augmented[is_flipped] = augmented[is_flipped, :, ::-1]
        return augmented


@dataclasses.dataclass(frozen=True)
class RandomAffine:
    """Shifts, turns, scales and shears every image a little, with bilinear interpolation.

    A pixel of the result comes from `A p + t`, with p measured from the image's center and

        A = (1 + scale) R(rotation) + [[0, shear], [0, 0]],

    each quantity drawn uniformly from plus or minus its bound, for each image anew.

    Args:
        shift: Float, pixels, along each side.
        rotation: Float, degrees.
        scale: Float, a share of the size.
        shear: Float, horizontal pixels per vertical pixel.
        fill_mode: What is beyond the edge: `"constant"` for zeros, or `"reflect"`, see `CropAndFlip`.

    Input shape:
        Images `[B, H, W, C]` as a NumPy array, bytes or floats, and a `numpy.random.Generator`.

    Output shape:
        As the images, and of their type.

    Raises:
        ValueError: If a bound is negative, there is no such `fill_mode`, or the images are not `[B, H, W, C]`.

    Example:

    >>> augment = RandomAffine(shift=0.5, rotation=8.0)
    >>> augment(x_train[:240], batch_generator(seed=0, epoch=3, batch=0)).shape
    (240, 28, 28, 1)
    """

    shift: float = 0.5
    rotation: float = 8.0
    scale: float = 0.05
    shear: float = 0.1
    fill_mode: str = "constant"

    def __post_init__(self) -> None:
        for name in ("shift", "rotation", "scale", "shear"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0; got {getattr(self, name)!r}.")
        _check_fill_mode(self.fill_mode)

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Augments a batch; `images` is left as it is."""
        if images.ndim != 4:
            raise ValueError(f"images must have shape [B, H, W, C]; got {images.shape}.")
        batch, height, width, _ = images.shape
        draws = rng.uniform(-1.0, 1.0, size=(5, batch))
        angle, shear = np.deg2rad(self.rotation) * draws[0], self.shear * draws[1]
        factor = 1.0 + self.scale * draws[2]
        of_x = np.stack([factor * np.cos(angle), shear - factor * np.sin(angle)])
        of_y = np.stack([factor * np.sin(angle), factor * np.cos(angle)])
        center = np.array([width - 1, height - 1])[:, None] / 2
        x_row = [*of_x, center[0] - (of_x * center).sum(axis=0) + self.shift * draws[3]]
        y_row = [*of_y, center[1] - (of_y * center).sum(axis=0) + self.shift * draws[4]]
        transforms = np.stack([*x_row, *y_row, np.zeros(batch), np.zeros(batch)], axis=-1)
        moved = keras.ops.image.affine_transform(
            images.astype("float32"),
            transforms.astype("float32"),
            fill_mode=self.fill_mode,
            data_format="channels_last",
        )
        moved = keras.ops.convert_to_numpy(moved)
        return (np.rint(moved) if np.issubdtype(images.dtype, np.integer) else moved).astype(images.dtype)


def _check_fill_mode(fill_mode):
    if fill_mode not in _NUMPY_MODES:
        raise ValueError(f"fill_mode must be one of {', '.join(_NUMPY_MODES)}; got {fill_mode!r}.")


def batch_generator(seed: int, epoch: int, batch: int) -> np.random.Generator:
    """Random generator of one batch of one epoch.

    `numpy.random.default_rng([seed, epoch, batch])`, so that a batch does not depend on which were made before it.

    Args:
        seed, epoch, batch: Integers, at least 0.

    Returns:
        A `numpy.random.Generator`.

    Raises:
        ValueError: If one of them is negative.

    Example:

    >>> batch_generator(seed=0, epoch=3, batch=17).integers(9, size=2)
    """
    return np.random.default_rng([seed, epoch, batch])


def default_augmentation(name: str) -> CropAndFlip | None:
    """The augmentation that the paper trains with on a data set.

    Crops of images padded by 4 and flips for CIFAR-10 and CIFAR-100, none for any other.

    Args:
        name: Name as `load` takes it, with or without configuration and version.

    Returns:
        A `CropAndFlip`, or `None`.

    Example:

    >>> default_augmentation("cifar10")
    CropAndFlip(padding=4, flip=True, fill_mode='constant')

    Reference:
        Alfarra et al., Rethinking Clustering for Robustness, BMVC 2021.
    """
    return CropAndFlip() if base_name(name) in ("cifar10", "cifar100") else None
