"""Checks of images and labels, each made once, before any training or certification starts."""

import numpy as np

from clustr_keras.types import ArrayLike, Shape, Tensor


def check_images(images: Tensor | ArrayLike, image_shape: Shape | None = None, name: str = "images") -> None:
    """Checks that an array holds images: `[B, H, W, C]`, not empty, finite, in [0, 1].

    Args:
        images: Array.
        image_shape: Expected `(H, W, C)`, with `None` for an axis of any size; not checked by default.
        name: What the error calls the array.

    Raises:
        ValueError: If it does not; the message says what was given and what was expected.
    """
    images = np.asarray(images)
    if images.ndim == 0 or len(images) == 0:
        raise ValueError(f"{name} must hold at least one example; got shape {images.shape}.")
    if image_shape is not None:
        check_image_shape(images.shape, image_shape, name)
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"{name} must be floats in [0, 1]; got dtype {images.dtype}. Divide 8-bit images by 255.")
    is_bad = ~((images >= 0) & (images <= 1))  # a NaN is neither
    if is_bad.any():
        index = np.unravel_index(int(np.argmax(is_bad)), images.shape)
        raise ValueError(
            f"{name} must be finite and lie in [0, 1]; got {images[index]} at index {tuple(map(int, index))}. "
            "Divide 8-bit images by 255; normalization belongs into the backbone."
        )


def check_image_shape(shape: Shape, image_shape: Shape, name: str = "images") -> None:
    """Checks that images of a shape fit a model, or other images.

    Args:
        shape: `(B, H, W, C)` of the images.
        image_shape: Expected `(H, W, C)`, with `None` for an axis of any size.
        name: What the error calls the images.

    Raises:
        ValueError: If they do not; the message says how to make them fit.

    Example:

    >>> check_image_shape(dataset.train.images.shape, model.input_shape[1:])
    """
    given, expected = tuple(shape[1:]), tuple(image_shape)
    if len(given) == len(expected) and all(e in (None, g) for g, e in zip(given, expected, strict=True)):
        return
    asked = ", ".join(map(str, expected))
    raise ValueError(f"{name} must have shape [B, {asked}]; got {tuple(shape)}.{_way_to_fit(given, expected)}")


def _way_to_fit(given, expected):
    if len(given) == 2 and len(expected) == 3:
        return " Add an axis for the channel: images[..., None]."
    if len(given) != 3 or len(expected) != 3:
        return ""
    if (*given[1:], given[0]) == expected:
        return " Move the channels to the last axis: numpy.moveaxis(images, 1, -1)."
    (*size, channels), (*expected_size, expected_channels) = given, expected
    fixes = []
    if any(e not in (None, g) for g, e in zip(size, expected_size, strict=True)):
        fixes.append("resize the images to " + " x ".join("any" if e is None else str(e) for e in expected_size))
    if (channels, expected_channels) == (1, 3):
        fixes.append("repeat the gray channel by numpy.repeat(images, 3, axis=-1)")
    elif (channels, expected_channels) == (3, 1):
        fixes.append("average the colors by images.mean(axis=-1, keepdims=True)")
    elif expected_channels not in (None, channels):
        fixes.append(f"convert the images to {expected_channels} channels")
    advice = " and ".join(fixes)
    return f" {advice[0].upper()}{advice[1:]}, or build the model for {given}."


def check_labels(
    labels: Tensor | ArrayLike, num_classes: int, num_examples: int | None = None, name: str = "labels"
) -> None:
    """Checks that an array holds class ids: `[B]` or `[B, 1]` integers in `0..C-1`.

    Args:
        labels: Array.
        num_classes: Integer C.
        num_examples: Expected length; not checked by default.
        name: What the error calls the array.

    Raises:
        ValueError: If it does not; the message says what was given and what was expected.
    """
    labels = np.asarray(labels)
    if labels.ndim and not (np.issubdtype(labels.dtype, np.number) or labels.dtype == bool):
        raise ValueError(f"{name} must be integer class ids; got dtype {labels.dtype}. Map the labels to 0, 1, 2, ...")
    if labels.ndim == 2 and labels.shape[1] == num_classes and num_classes > 1:
        raise ValueError(
            f"{name} must be integer class ids [B]; got shape {labels.shape}, which looks one-hot. "
            "Pass labels.argmax(axis=-1)."
        )
    if labels.ndim not in (1, 2) or (labels.ndim == 2 and labels.shape[1] != 1):
        raise ValueError(f"{name} must have shape [B] or [B, 1]; got {labels.shape}.")
    if num_examples is not None and len(labels) != num_examples:
        raise ValueError(f"there must be one label for each image; got {len(labels)} labels, {num_examples} images.")
    flat = labels.reshape(-1)
    is_bad = ~((flat >= 0) & (flat < num_classes)) | (flat != np.floor(flat))
    if is_bad.any():
        index = int(np.argmax(is_bad))
        label = flat[index].item()
        way_out = (
            f"Pass num_classes={int(flat.max()) + 1}, or map the labels."
            if label >= num_classes and np.isfinite(flat).all()
            else ("Map the labels to 0, 1, 2, ...")
        )
        raise ValueError(
            f"{name} must lie in 0..{num_classes - 1} for num_classes={num_classes}; "
            f"got {label} at index {index}. {way_out}"
        )
