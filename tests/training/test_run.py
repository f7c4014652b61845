import importlib.util

import keras
import pytest

from clustr_keras.data import load
from clustr_keras.training.run import run_training


def test_tensorboard_that_is_not_installed_is_an_error_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install .*\[tensorboard\]"):
        run_training(load("digits"), "standard", tmp_path / "model.keras", fast=True, tensorboard=tmp_path)
    assert not (tmp_path / "model.keras").exists()


def test_margin_and_radii_are_those_asked_for(tmp_path):
    facts = run_training(load("digits"), "certified", tmp_path / "model.keras", epochs=1, margin=2.5, radii=(0.1, 0.2))
    assert list(facts["certified_accuracy"]) == ["0.1", "0.2"]
    model = keras.models.load_model(tmp_path / "model.keras")
    assert model.loss.margin == 2.5


def test_rows_of_epochs_that_are_trained_again_are_dropped(tmp_path):
    digits, log = load("digits"), tmp_path / "log.csv"
    arguments = {"fast": True, "checkpoint": tmp_path / "checkpoint", "csv_log": log}
    run_training(digits, "standard", tmp_path / "model.keras", epochs=1, **arguments)
    with log.open("a") as file:
        file.write("1,0.5,0.5\n")  # a kill came between this row and its checkpoint
    run_training(digits, "standard", tmp_path / "model.keras", epochs=2, **arguments)
    assert [line.partition(",")[0] for line in log.read_text().splitlines()] == ["epoch", "0", "1"]
