import json

import keras
import numpy as np
import pytest

from clustr_keras import ClustrClassifier
from clustr_keras.commands.export import export

CARD = "assets.extra/model_card.json"


def test_the_model_card_has_the_accuracies(trained, digits):
    card = json.loads((trained / "serving" / "1" / CARD).read_text())
    _, (images, labels) = digits
    certificate = keras.models.load_model(trained / "model.keras").certify(images)
    assert (card["data_set"], card["test_images"]) == ("digits", len(images))
    assert card["clean_accuracy"] == pytest.approx(np.mean(certificate.class_ids == labels), abs=1e-9)
    assert card["certified_accuracy"]["0.3"] == certificate.accuracy_at(0.3, labels)
    figures = json.loads((trained / "export.json").read_text())
    told = {name: card[name] for name in ("data_set", "test_images", "clean_accuracy", "certified_accuracy")}
    rest = {"model": "model.keras", "output": "serving/1", "version": 1, "verified_on": 0}
    assert figures == rest | told
    assert all(name in export.__doc__ for name in figures)


def test_a_model_without_a_bound_is_exported_only_if_asked(tmp_path, clustr_here):
    backbone = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.LayerNormalization()])
    ClustrClassifier(backbone, 10).save(tmp_path / "plain.keras")
    code, _, err = clustr_here("export", "--model", "plain.keras", "--output", "plain", cwd=tmp_path)
    assert code == 2
    assert "layer_normalization" in err
    assert not (tmp_path / "plain" / "1").exists()
    arguments = ("--without-certificate", "--data", "digits", "--verify", "--examples", 50, "--seed", 4)
    command = ("export", "--model", "plain.keras", "--output", "plain", *arguments)
    code, out, err = clustr_here(*command, cwd=tmp_path)
    assert (code, err) == (0, "")
    assert "answers as the live model does on 50 images" in " ".join(out.split())
    card = json.loads((tmp_path / "plain" / "1" / CARD).read_text())
    assert card["certificate"] is None
    assert "certified_accuracy" not in card
    assert (card["seed"], card["test_images"]) == (4, 50)
    assert card["ids"] == np.sort(np.random.default_rng(4).permutation(360)[:50]).tolist()
