import shutil

import pytest

from clustr_keras.serving.errors import ServingError
from clustr_keras.serving.model_config import ModelConfig
from clustr_keras.serving.model_stores import ModelStores


@pytest.fixture
def stores(toy_dir, tmp_path):
    """Versions 2 and 3 as "toy", and a copy of version 2 as "copy"."""
    shutil.copytree(toy_dir / "2", tmp_path / "copy" / "2")
    stores = ModelStores([ModelConfig(toy_dir, "toy", {"stable": 2}), ModelConfig(tmp_path / "copy", "copy")])
    stores.load()
    return stores


def test_a_model_is_found_by_name_then_by_version(stores):
    assert stores.names == ["toy", "copy"]
    found = [stores.find("toy"), stores.find("toy", version=2), stores.find("toy", label="stable"), stores.find("copy")]
    assert [(model.name, model.version) for model in found] == [("toy", 3), ("toy", 2), ("toy", 2), ("copy", 2)]
    assert [version.number for version in stores.versions("toy")] == [3, 2]


def test_unknown_names(stores):
    for ask in (stores.find, stores.versions):
        with pytest.raises(ServingError, match=r'NOT_FOUND: model "other".*"toy", "copy"'):
            ask("other")
    with pytest.raises(ServingError, match="INVALID_ARGUMENT"):
        stores.find("copy", label="stable")


def test_a_folder_that_goes_away_hinders_no_other(stores, toy_dir, tmp_path, caplog):
    away = tmp_path / "copy"
    first = ModelStores([ModelConfig(away, "copy"), ModelConfig(tmp_path / "toy", "toy")])
    shutil.copytree(toy_dir / "2", tmp_path / "toy" / "2")
    first.load()
    away.rename(tmp_path / "away")
    shutil.copytree(toy_dir / "3", tmp_path / "toy" / "3")
    first.refresh()
    assert first.find("copy").version == 2
    assert first.find("toy").version == 3
    assert "could not look for versions" in caplog.text


def test_a_model_with_nothing_to_serve_is_an_error(toy_dir, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ModelStores([ModelConfig(toy_dir, "toy"), ModelConfig(tmp_path / "nowhere", "m")]).load()
