import pathlib
import shutil

import numpy as np
import pytest

from clustr_keras.serving.errors import ServingError
from clustr_keras.serving.model_config import ModelConfig
from clustr_keras.serving.model_store import ModelStore

X = {"x": np.zeros(1, np.float32)}


@pytest.fixture
def model_dir(tmp_path, toy_dir):
    """A directory with version 2 that a test may change."""
    shutil.copytree(toy_dir / "2", tmp_path / "toy" / "2")
    return tmp_path / "toy"


@pytest.fixture
def store(model_dir):
    store = ModelStore(ModelConfig(model_dir, "toy"))
    store.load()
    return store


def offset(model):
    return model.run("", X)["y"].item()


def states(store):
    return {version.number: bool(version.model) for version in store.versions()}


def test_the_newest_version_is_the_default(toy_dir):
    store = ModelStore(ModelConfig(toy_dir, "toy"))
    store.load()
    assert offset(store.find()) == 3
    assert offset(store.find(version=2)) == 2


def test_numbers_order_versions_not_letters(model_dir, toy_dir):
    shutil.copytree(toy_dir / "3", model_dir / "00010")
    store = ModelStore(ModelConfig(model_dir, "toy"))
    store.load()
    assert store.find().version == 10


def test_a_new_version_takes_over_and_a_deleted_one_goes(store, model_dir, toy_dir):
    held = store.find()
    shutil.copytree(toy_dir / "3", model_dir / "3")
    store.refresh()
    assert offset(store.find()) == 3
    shutil.rmtree(model_dir / "2")
    store.refresh()
    with pytest.raises(ServingError, match=r"NOT_FOUND: .*version 2; available: \[3\]"):
        store.find(version=2)
    assert offset(held) == 2  # a request under way keeps its model


def test_what_has_not_changed_is_not_loaded_again(store):
    before = store.find()
    store.refresh()
    assert store.find() is before


def test_a_version_that_was_replaced_is_loaded_again(store, model_dir, toy_dir):
    shutil.rmtree(model_dir / "2")
    shutil.copytree(toy_dir / "3", model_dir / "2")
    for expected in (2, 3):  # first it is seen to have changed, then to have stayed so
        store.refresh()
        assert offset(store.find(version=2)) == expected


def test_a_version_that_is_being_written_over_is_not_mixed(store, model_dir, toy_dir):
    for path in sorted((toy_dir / "3").rglob("*")):  # saved_model.pb comes before variables/
        if path.is_file():
            shutil.copy(path, model_dir / "2" / path.relative_to(toy_dir / "3"))
            store.refresh()
            assert offset(store.find(version=2)) == 2
    store.refresh()
    assert offset(store.find(version=2)) == 3


def test_a_version_that_is_spoilt_goes_on_answering(store, model_dir):
    (model_dir / "2" / "saved_model.pb").write_bytes(b"spoilt")
    for _ in range(3):
        store.refresh()
    assert offset(store.find(version=2)) == 2
    assert store.versions()[0].error


def test_a_folder_that_cannot_be_read_does_not_hinder_the_others(store, model_dir, toy_dir, monkeypatch):
    shutil.copytree(toy_dir / "3", model_dir / "3")
    exists = pathlib.Path.exists

    def refused(path):
        if path.parent.name == "2":
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path)

    monkeypatch.setattr(pathlib.Path, "exists", refused)
    store.refresh()
    assert offset(store.find()) == 3


@pytest.mark.parametrize("name", [".3.tmp", "3.partial", "v3", "-3", "3 ", "٣", "9223372036854775808"])
def test_folders_whose_name_is_no_plain_integer_are_ignored(store, model_dir, toy_dir, name):
    shutil.copytree(toy_dir / "3", model_dir / name)
    store.refresh()
    assert states(store) == {2: True}


def test_a_folder_without_a_saved_model_is_not_a_version_yet(store, model_dir, toy_dir):
    (model_dir / "3").mkdir()
    store.refresh()
    assert states(store) == {2: True}


def test_a_half_written_version_does_not_disturb_and_is_tried_again(store, model_dir, toy_dir):
    (model_dir / "3").mkdir()
    shutil.copy(toy_dir / "3" / "saved_model.pb", model_dir / "3")  # its variables are still to come
    store.refresh()
    assert states(store) == {3: False, 2: True}
    assert offset(store.find()) == 2
    failed = store.versions(3)
    store.refresh()
    assert store.versions(3)[0] is failed[0]  # not tried again while nothing changes
    shutil.copytree(toy_dir / "3", model_dir / "3", dirs_exist_ok=True)
    store.refresh()
    assert offset(store.find()) == 3


def test_a_corrupt_graph_does_not_disturb(store, model_dir):
    (model_dir / "3").mkdir()
    (model_dir / "3" / "saved_model.pb").write_bytes(b"not a protocol buffer")
    store.refresh()
    assert store.find().version == 2
    assert store.versions(3)[0].error


def test_when_the_last_version_goes_the_model_is_not_found(store, model_dir):
    shutil.rmtree(model_dir / "2")
    store.refresh()
    with pytest.raises(ServingError, match="NOT_FOUND"):
        store.find()


def test_a_directory_that_is_away_keeps_what_is_loaded(store, model_dir):
    model_dir.rename(model_dir.with_name("away"))
    with pytest.raises(OSError, match="toy"):
        store.refresh()
    assert offset(store.find()) == 2


def test_unknown_labels(store):
    with pytest.raises(ServingError, match=r'INVALID_ARGUMENT: .*"stable"'):
        store.find(label="stable")


def test_only_what_the_policy_wants_is_loaded(toy_dir):
    store = ModelStore(ModelConfig(toy_dir, "toy", policy=lambda numbers: frozenset({2}.intersection(numbers))))
    store.load()
    assert states(store) == {2: True}
    assert offset(store.find()) == 2


def test_the_version_before_stays_until_the_one_that_the_policy_wants_is_loaded(model_dir, toy_dir):
    store = ModelStore(ModelConfig(model_dir, "toy", policy=lambda numbers: frozenset([max(numbers)])))
    store.load()
    (model_dir / "3").mkdir()
    (model_dir / "3" / "saved_model.pb").write_bytes(b"not a protocol buffer")
    store.refresh()
    assert states(store) == {2: True, 3: False}
    shutil.rmtree(model_dir / "3")
    shutil.copytree(toy_dir / "3", model_dir / "3")
    store.refresh()
    assert states(store) == {3: True}


def test_a_policy_that_wants_nothing_that_is_there_says_so(toy_dir):
    with pytest.raises(ValueError, match=r"of the versions \[2, 3\] .* none be served"):
        ModelStore(ModelConfig(toy_dir, "toy", policy=frozenset([7]).intersection)).load()


def test_a_missing_directory_says_what_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.*saved_model\.pb.*Export"):
        ModelStore(ModelConfig(tmp_path / "nowhere", "toy")).load()


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file"):
        ModelStore(ModelConfig(tmp_path / "file", "toy")).load()


def test_a_directory_without_a_version_says_so(tmp_path):
    with pytest.raises(ValueError, match="has no version"):
        ModelStore(ModelConfig(tmp_path, "toy")).load()


def test_a_version_given_for_its_parent_is_recognized(model_dir):
    with pytest.raises(ValueError, match=f"pass its parent, {model_dir}"):
        ModelStore(ModelConfig(model_dir / "2", "toy")).load()


def test_a_directory_with_only_broken_versions_says_why(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"no version .* could be loaded\. 1: "):
        ModelStore(ModelConfig(tmp_path, "toy")).load()
