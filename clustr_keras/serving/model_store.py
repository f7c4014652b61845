"""The versions of one model: found in a directory, loaded, and chosen by number."""

import dataclasses
import logging
import threading
from pathlib import Path

from clustr_keras.serving.errors import ServingError
from clustr_keras.serving.loaded_model import LoadedModel
from clustr_keras.serving.model_config import ModelConfig
from clustr_keras.serving.version_folders import version_number
from clustr_keras.serving.warmup import replay_warmup

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Version:
    """A version folder as it was last seen: loaded, or failed with `error`.

    `stamp` tells whether the folder has changed since it was loaded or failed; `changing_to` is what it was at the last
    look, if it has.
    """

    number: int
    stamp: tuple[object, ...]
    model: LoadedModel | None = None
    error: str = ""
    changing_to: tuple[object, ...] | None = None


class ModelStore:
    """The served versions in a model directory, in memory, each after its warm-up requests.

    A version is a folder whose name is a plain integer and that holds a SavedModel; anything else, temporary folders of
    an export under way for one, is ignored. A request keeps the model that it was given, also when the version is
    dropped meanwhile.

    Args:
        config: A `ModelConfig`.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Nothing is read before `load`."""
        self.model_dir = Path(config.model_dir)
        self.name = config.name
        self.labels = dict(config.labels)
        self._policy = config.policy
        self._versions: dict[int, Version] = {}  # replaced as a whole, never changed: readers need no lock
        self._loading = threading.Lock()

    def load(self) -> None:
        """Load what is there.

        Raises:
            OSError: If the directory is missing.
            ValueError: If it holds no version, or none that loads.
        """
        expected = f"Expected a folder with a version in it, such as {self.model_dir / '1' / 'saved_model.pb'}."
        if not self.model_dir.exists():
            raise FileNotFoundError(f"model_dir does not exist: {self.model_dir}. {expected} Export a model first.")
        if not self.model_dir.is_dir():
            raise NotADirectoryError(f"model_dir is not a folder: {self.model_dir}. {expected}")
        if _saved_model(self.model_dir):
            raise ValueError(
                f"model_dir is itself a SavedModel: {self.model_dir}. {expected} "
                f"If this is a version, pass its parent, {self.model_dir.parent}."
            )
        self.refresh()
        if not self._versions and (there := sorted(_version_folders(self.model_dir))):
            raise ValueError(
                f"of the versions {there} in {self.model_dir}, model_version_policy lets none be served. Name one of "
                'them there, or say "all {}".'
            )
        if not self._versions:
            raise ValueError(f"model_dir has no version: {self.model_dir}. {expected} Export a model first.")
        if not any(version.model for version in self._versions.values()):
            reasons = "; ".join(f"{number}: {version.error}" for number, version in self._versions.items())
            raise ValueError(f"no version in {self.model_dir} could be loaded. {reasons}. Export the model again.")

    def refresh(self) -> None:
        """Load versions that are new, and drop those that are gone or that the policy no longer wants.

        What it no longer wants goes when all that it wants is loaded: a newest version that fails leaves the one before
        it in its place.

        One that was written over is loaded again when it has not changed between two looks; until then, and if it does
        not load, what was loaded before goes on answering.
        """
        with self._loading:
            folders = _version_folders(self.model_dir)
            wanted = self._policy(folders)
            versions = {number: self._current(number, folders[number]) for number in wanted}
            if not all(version.model for version in versions.values()):
                versions |= {n: known for n, known in self._versions.items() if n in folders.keys() - wanted}
            self._versions = dict(sorted(versions.items()))

    def find(self, version: int | None = None, label: str | None = None) -> LoadedModel:
        """The model that a request means.

        Args:
            version: Its number; by default the newest that could be loaded.
            label: Label of a version, instead of its number.

        Returns:
            A `LoadedModel`.

        Raises:
            ServingError: NOT_FOUND for a version that is not here; INVALID_ARGUMENT for an unknown label.
        """
        version = self._version(version, label)
        models = {number: known.model for number, known in self._versions.items() if known.model}
        if version is None and models:
            return models[max(models)]
        if version not in models:
            wanted = "an available version" if version is None else f"version {version}"
            raise ServingError("NOT_FOUND", f'model "{self.name}" does not have {wanted}; available: {sorted(models)}.')
        return models[version]

    def versions(self, version: int | None = None, label: str | None = None) -> list[Version]:
        """Every `Version`, or the one asked for, newest first; those that failed to load too.

        Raises:
            ServingError: NOT_FOUND, if there are none; INVALID_ARGUMENT for an unknown label.
        """
        version = self._version(version, label)
        known = self._versions
        found = [known[number] for number in sorted(known, reverse=True) if version in (None, number)]
        if not found:
            wanted = "any version" if version is None else f"version {version}"
            raise ServingError("NOT_FOUND", f'model "{self.name}" does not have {wanted}; it has {sorted(known)}.')
        return found

    def _version(self, version, label):
        """The version's number that a request asks for, or `None`."""
        if label is None:
            return version
        if label not in self.labels:
            known = sorted(self.labels)
            raise ServingError(
                "INVALID_ARGUMENT", f'model "{self.name}" has no version label "{label}"; it has {known}.'
            )
        return self.labels[label]

    def _current(self, number, folder):
        # Taken before loading: what changes during it counts as new.
        known, stamp = self._versions.get(number), _stamp(folder)
        if known and stamp == known.stamp:
            return known
        if known and known.model and stamp != known.changing_to:
            # Written over, perhaps not to the end: loaded now it would be half old, half new.
            return dataclasses.replace(known, changing_to=stamp)
        try:
            model = LoadedModel(folder, number, self.name)
            replay_warmup(model, folder)
        except Exception as error:  # TensorFlow promises no types here, and a bad version must not stop the others
            _log.warning("Version %d of model %s could not be loaded from %s: %s", number, self.name, folder, error)
            if known and known.model:
                return dataclasses.replace(known, stamp=stamp, error=f"{type(error).__name__}: {error}")
            return Version(number, stamp, error=f"{type(error).__name__}: {error}")
        _log.info("Loaded version %d of model %s from %s", number, self.name, folder)
        return Version(number, stamp, model=model)


def _version_folders(model_dir):
    return {
        number: entry
        for entry in sorted(model_dir.iterdir())
        if (number := version_number(entry.name)) is not None and _is_there(entry)
    }


def _is_there(folder):
    try:
        return _saved_model(folder) is not None
    except OSError as error:  # one that cannot be read does not hinder the others
        _log.warning("could not look into %s: %s", folder, error)
        return False


def _saved_model(folder):
    return next((folder / name for name in ("saved_model.pb", "saved_model.pbtxt") if (folder / name).exists()), None)


def _stamp(folder):
    """Changes with any file in a version folder."""
    return tuple((str(path), _stamp_of_file(path)) for path in sorted(folder.rglob("*")))


def _stamp_of_file(path):
    try:
        status = path.stat()
    except FileNotFoundError:  # deleted since it was listed
        return ()
    return status.st_ino, status.st_mtime_ns, status.st_size
