import csv
import json

import keras
import numpy as np
import pytest
from support.command_line import clustr

from clustr_keras.commands.train import train


def test_a_fresh_process_trains_to_the_same_numbers_and_says_nothing_else(trained, tmp_path):
    code, out, err = clustr("train", "--epochs", 3, "--output", "model.keras", "--json", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert out == (trained / "train.json").read_text()
    first, second = (keras.models.load_model(folder / "model.keras") for folder in (trained, tmp_path))
    for one, other in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_figures_are_those_of_the_model(trained, digits):
    figures = json.loads((trained / "train.json").read_text())
    _, (images, labels) = digits
    certificate = keras.models.load_model(trained / "model.keras").certify(images)
    is_right = certificate.class_ids == labels
    assert figures == {
        "output": "model.keras",
        "data": "digits",
        "recipe": "certified",
        "seed": 0,
        "test_images": 360,
        "clean_accuracy": pytest.approx(is_right.mean()),
        "certified_accuracy": {
            radius: pytest.approx(np.mean(is_right & (certificate.certified_radius >= float(radius))))
            for radius in ("0.3", "0.5")
        },
    }
    assert all(name in train.__doc__ for name in figures)


def test_the_papers_recipe_resumes_where_its_checkpoint_ends(tmp_path, clustr_here):
    def train(epochs):
        arguments = ("--checkpoint", "checkpoint", "--csv-log", "logs/clustr.csv", "--output", "clustr.keras")
        return clustr_here("train", "--recipe", "clustr", "--fast", "--epochs", epochs, *arguments, cwd=tmp_path)

    for epochs in (2, 3):
        code, out, err = train(epochs)
        assert (code, err) == (0, "")
        assert "Saved clustr.keras. Test: clean accuracy" in out
        rows = list(csv.DictReader((tmp_path / "logs" / "clustr.csv").open()))
        assert [int(row["epoch"]) for row in rows] == list(range(epochs))
    assert (tmp_path / "checkpoint" / "checkpoint.npz").exists()


def test_images_are_resized_alike_for_training_and_for_certificates(tmp_path, clustr_here):
    resized = ("--image-size", "10x12")
    code, out, err = clustr_here("train", *resized, "--epochs", 1, "--output", "m.keras", "--json", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert keras.models.load_model(tmp_path / "m.keras").backbone.input_shape == (None, 10, 12, 1)
    code, certified, _ = clustr_here("certify", "--model", "m.keras", *resized, "--json", cwd=tmp_path)
    assert code == 0
    assert json.loads(certified)["clean_accuracy"] == pytest.approx(json.loads(out)["clean_accuracy"])
    code, _, err = clustr_here("certify", "--model", "m.keras", cwd=tmp_path)
    assert code == 2
    assert "Resize the images to 10 x 12" in err
