"""The models of a server, by name."""

import logging
from collections.abc import Sequence

from clustr_keras.serving.errors import ServingError
from clustr_keras.serving.loaded_model import LoadedModel
from clustr_keras.serving.model_config import ModelConfig
from clustr_keras.serving.model_store import ModelStore, Version

_log = logging.getLogger(__name__)


class ModelStores:
    """A `ModelStore` for each model.

    Args:
        configs: A `ModelConfig` for each.
    """

    def __init__(self, configs: Sequence[ModelConfig]) -> None:
        """Nothing is read before `load`."""
        self._stores = {config.name: ModelStore(config) for config in configs}

    @property
    def names(self) -> list[str]:
        """Names of the models, in their order."""
        return list(self._stores)

    def load(self) -> None:
        """Load all of them.

        Raises:
            OSError, ValueError: As `ModelStore.load`, for the first that has nothing to serve.
        """
        for store in self._stores.values():
            store.load()

    def refresh(self) -> None:
        """Look for versions that are new, and for those that are gone."""
        for store in self._stores.values():
            try:
                store.refresh()
            except Exception as error:  # a file system that is away for a moment takes no loaded model with it
                _log.warning("could not look for versions in %s: %s", store.model_dir, error)

    def find(self, name: str, version: int | None = None, label: str | None = None) -> LoadedModel:
        """The model of a name, in a version: as `ModelStore.find`, and NOT_FOUND for a name that is not here."""
        return self._store(name).find(version, label)

    def versions(self, name: str, version: int | None = None, label: str | None = None) -> list[Version]:
        """The versions of a name: as `ModelStore.versions`, and NOT_FOUND for a name that is not here."""
        return self._store(name).versions(version, label)

    def _store(self, name):
        if name not in self._stores:
            known = ", ".join(f'"{name}"' for name in self._stores)
            raise ServingError("NOT_FOUND", f'model "{name}" is not served here; this server has {known}.')
        return self._stores[name]
