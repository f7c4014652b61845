"""What commands read: data sets and models."""

import dataclasses
import importlib
import pathlib
import re
import sys
import typing

if typing.TYPE_CHECKING:
    import keras

    from clustr_keras.classifier import ClustrClassifier
    from clustr_keras.data import ImageDataset
    from clustr_keras.types import Floats, Ints


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """Test images, or a random sample of them.

    Args:
        images: Floats `[B, H, W, C]` in [0, 1].
        labels: int64 `[B]`.
        ids: int64 `[B]`, their places in the data set.
        total: Integer, how many the data set has.
    """

    images: "Floats"
    labels: "Ints"
    ids: "Ints"
    total: int

    @property
    def sample(self) -> "Ints | None":
        """The ids, `None` if these are all images."""
        return None if len(self.ids) == self.total else self.ids


def load_data(name: str, data_dir: pathlib.Path | None, image_size: str | None = None) -> "ImageDataset":
    """The data set of `--data`, `--data-dir` and `--image-size`."""
    pixels = None
    if image_size is not None:
        pixels = [int(part) for part in image_size.split("x") if part.isdecimal()]
        pixels = 2 * pixels if len(pixels) == 1 and "x" not in image_size else pixels
        if len(pixels) != 2 or image_size.count("x") > 1 or 0 in pixels:
            raise ValueError(f"--image-size must be pixels, such as 64 or 64x48 (height x width); got {image_size!r}.")
    from clustr_keras.data import load

    return load(name, data_dir, pixels)


def radii_to_tell(radii: list[float] | None, dataset: "ImageDataset") -> tuple[float, ...]:
    """The radii of `--radius`; those of the data set's recipe by default."""
    if radii:
        return tuple(radii)
    from clustr_keras.training import certified_recipe

    return certified_recipe(dataset.name, image_shape=dataset.image_shape).radii


def images_to_test(dataset: "ImageDataset", examples: int | None, seed: int = 0) -> Images:
    """A random sample of the test images, in their order; all by default."""
    from clustr_keras.data import as_floats, random_rows

    test = dataset.test
    ids = random_rows(len(test), examples, seed)
    return Images(as_floats(test.images[ids]), test.labels[ids], ids, len(test))


def import_modules(names: list[str] | None) -> None:
    """Imports what `--import` names: modules that Python finds, from the current folder too, or .py files."""
    for name in names or ():
        file = pathlib.Path(name)
        is_file = file.suffix == ".py"
        sys.path.insert(0, str(file.parent.absolute() if is_file else pathlib.Path.cwd()))
        try:
            importlib.import_module(file.stem if is_file else name)
        except ModuleNotFoundError as error:
            if error.name not in (file.stem, name, name.partition(".")[0]):
                raise  # something that the module itself needs
            raise ValueError(f"--import {name}: there is no such module or file.") from error
        finally:
            sys.path.pop(0)


def check_exists(model: str, option: str = "--model") -> None:
    """Refuses a model that is not there."""
    if not pathlib.Path(model).exists() and "://" not in model:
        raise ValueError(f"{option} {model} does not exist. Name a .keras file, such as clustr train writes.")


def load_classifier(model: str, otherwise: str, option: str = "--model") -> "ClustrClassifier":
    """The `ClustrClassifier` of a .keras file.

    Args:
        model: What `--model` says.
        otherwise: What to do with an exported version.
        option: What names the file.
    """
    check_exists(model, option)
    if pathlib.Path(model).is_dir():
        raise ValueError(f"{option} {model} is a folder; expected the .keras file of a ClustrClassifier. {otherwise}")
    from clustr_keras.classifier import ClustrClassifier

    loaded = _load(model)
    if not isinstance(loaded, ClustrClassifier):
        raise ValueError(f"{option} must hold a ClustrClassifier; {model} holds a {type(loaded).__name__}.")
    return loaded


def load_any(model: str) -> "keras.Model | str":
    """A Keras model, or the path of a SavedModel as it is."""
    check_exists(model)
    return model if pathlib.Path(model).is_dir() else _load(model)


def _load(path: str) -> "keras.Model":
    import keras

    import clustr_keras

    clustr_keras.register_for_deserialization()
    try:
        return keras.models.load_model(path, compile=False)
    except TypeError as error:
        # The layer of a nested model is named in an error within another one.
        unknown = re.search(r"Could not locate (?:class|function) '([^']+)'", str(error))
        if unknown is None:
            raise
        raise ValueError(
            f"{path} holds a {unknown[1]}, which nothing here knows. Say --import and the module or the .py file that "
            "registers it, with keras.saving.register_keras_serializable."
        ) from error
