"""Version folders: their numbers, and what is left of them when something fails on the way."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import keras
import pytest
from numpy.testing import assert_array_equal
from support.small_classifiers import small_classifier

from clustr_keras.serving import Client, LocalServer, export_model
from clustr_keras.serving import export as export_module
from clustr_keras.serving.model_config import ModelConfig
from clustr_keras.serving.model_store import ModelStore


def test_facts_cannot_talk_over_the_proof(classifier, tmp_path, fake_archive):
    path = export_model(classifier, tmp_path, facts={"lipschitz_bound": 0.001, "data_set": "digits"})
    card = json.loads((path / "assets.extra" / "model_card.json").read_text())
    assert card["lipschitz_bound"] > 0.9


class FakeArchive:
    """Writes an empty file for a SavedModel at once; the tests of folders need no more."""

    def track(self, resource):
        pass

    def add_endpoint(self, name, fn, input_signature=None):
        pass

    def write_out(self, filepath, verbose=True):
        pathlib.Path(filepath, "saved_model.pb").touch()


@pytest.fixture
def fake_archive(monkeypatch):
    monkeypatch.setattr(keras.export, "ExportArchive", FakeArchive)


def test_versions_count_up_from_the_largest_that_is_there(classifier, tmp_path, fake_archive):
    directory = tmp_path / "new" / "clustr"
    assert export_model(classifier, directory) == directory / "1"
    assert export_model(classifier, directory, version=7) == directory / "7"
    assert export_model(classifier, directory, version=3) == directory / "3"
    for name in ("notes", ".export-99-abc", "-12", "8.5"):
        (directory / name).mkdir()
    assert export_model(classifier, str(directory)) == directory / "8"
    assert export_model(classifier, directory, version=10).name == "10"
    assert export_model(classifier, directory).name == "11"


def test_a_version_that_is_there_is_refused_and_left_alone(classifier, tmp_path):
    (tmp_path / "4").mkdir()
    (tmp_path / "4" / "mine").write_text("kept")
    with pytest.raises(ValueError, match="version 4 is there already"):
        export_model(classifier, tmp_path, version=4)
    assert (tmp_path / "4" / "mine").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["4"]


@pytest.mark.parametrize("version", [0, -1, 1.0, "2", True])
def test_a_version_that_is_no_positive_integer_is_refused(classifier, tmp_path, fake_archive, version):
    with pytest.raises(ValueError, match=f"version must be an integer of at least 1; got {version!r}"):
        export_model(classifier, tmp_path, version=version)
    assert list(tmp_path.iterdir()) == []


def fail(*args, **kwargs):
    raise RuntimeError("injected")


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize("failure", [fail, interrupt])
@pytest.mark.parametrize("where", ["add_endpoint", "write_out", "_model_card", "rename"])
def test_a_failure_in_the_middle_leaves_nothing(classifier, tmp_path, fake_archive, where, failure):
    owner = {"_model_card": export_module, "rename": os}.get(where, FakeArchive)
    (tmp_path / "1").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, where, failure)
        with pytest.raises((RuntimeError, KeyboardInterrupt)):
            export_model(classifier, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert export_model(classifier, tmp_path).name == "2"


def test_a_failure_after_the_model_was_written_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "_model_card", fail)
    with pytest.raises(RuntimeError, match="injected"):
        export_model(small_classifier(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_facts_that_no_card_can_hold_leave_nothing(classifier, tmp_path, fake_archive):
    with pytest.raises(TypeError):
        export_model(classifier, tmp_path, facts={"data_set": object()})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", [None, 1])
def test_a_version_that_appears_meanwhile_is_not_overwritten(classifier, tmp_path, monkeypatch, fake_archive, version):
    model_card = export_module._model_card

    def slow_card(*args):
        (tmp_path / "1").mkdir()
        (tmp_path / "1" / "theirs").write_text("kept")
        return model_card(*args)

    monkeypatch.setattr(export_module, "_model_card", slow_card)
    if version is None:
        assert export_model(classifier, tmp_path).name == "2"
        shutil.rmtree(tmp_path / "2")
    else:
        with pytest.raises(OSError, match="not empty"):
            export_model(classifier, tmp_path, version)
    assert [path.name for path in tmp_path.rglob("*")] == ["1", "theirs"]


def test_no_version_is_visible_before_it_is_whole(classifier, tmp_path, monkeypatch, fake_archive):
    seen = []
    rename = os.rename

    def note(source, target):
        seen.append([path.name for path in tmp_path.iterdir() if path.name.isdecimal()])
        assert os.path.dirname(source) == os.path.dirname(target)
        assert os.path.exists(os.path.join(source, "assets.extra", "model_card.json"))
        assert os.path.exists(os.path.join(source, "saved_model.pb"))
        rename(source, target)

    monkeypatch.setattr(os, "rename", note)
    export_model(classifier, tmp_path)
    assert seen == [[]]


KILLED = """
import os, signal, sys
import keras
from clustr_keras import ClustrClassifier, backbones
from clustr_keras.serving import export, export_model
export._model_card = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
export_model(ClustrClassifier(backbones.lipschitz_mlp((8, 8, 1), widths=(8,)), 3), sys.argv[1])
"""


def test_sigkill_in_the_middle_leaves_no_version_and_hinders_nobody(classifier, tmp_path, digits):
    images = digits[1][0][:32]
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert any(tmp_path.iterdir()), "it was killed too early to leave a trace"
    with pytest.raises(ValueError, match="has no version"):
        ModelStore(ModelConfig(tmp_path, "clustr")).load()
    path = export_model(classifier, tmp_path)
    assert path.name == "1"
    with LocalServer(tmp_path) as server, Client(server.grpc_target) as client:
        assert_array_equal(client.predict(images).class_ids, classifier.certify(images).class_ids)
