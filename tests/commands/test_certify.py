import csv
import dataclasses

import keras
import numpy as np
import pytest

from clustr_keras.classifier import ClustrClassifier
from clustr_keras.commands.certify import certify


@pytest.fixture(scope="module")
def certificate(trained, digits):
    return keras.models.load_model(trained / "model.keras").certify(digits[1][0])


def drawn(seed, count, total=360):
    return np.sort(np.random.default_rng(seed).permutation(total)[:count])


def test_certify_writes_a_row_for_each_image_of_a_random_sample(trained, digits, certificate, clustr_here):
    arguments = ("certify", "--model", "model.keras", "--examples", 20, "--seed", 5, "--output", "out/rows.csv")
    code, out, err = clustr_here(*arguments, cwd=trained)
    assert (code, err) == (0, "")
    assert "20 images: clean accuracy" in " ".join(out.split())
    rows = list(csv.DictReader((trained / "out" / "rows.csv").open()))
    ids = drawn(5, 20)
    assert [int(row["image"]) for row in rows] == ids.tolist()
    assert [int(row["class_ids"]) for row in rows] == certificate.class_ids[ids].tolist()
    assert [int(row["label"]) for row in rows] == digits[1][1][ids].tolist()
    radii = [float(row["certified_radius"]) for row in rows]
    np.testing.assert_allclose(radii, certificate.certified_radius[ids], atol=1e-5)


def test_an_exported_version_answers_as_its_model(answer, digits, certificate):
    arguments = ("certify", "--examples", 30, "--model")
    by_model, _ = answer(*arguments, "model.keras")
    by_export, code = answer(*arguments, "serving/1")
    ids = drawn(0, 30)
    right = (certificate.class_ids == digits[1][1])[ids]
    assert code == 0
    assert by_model == {
        "model": "model.keras",
        "data": "digits",
        "output": None,
        "seed": 0,
        "ids": ids.tolist(),
        "test_images": 30,
        "clean_accuracy": pytest.approx(right.mean()),
        "certified_accuracy": {
            radius: pytest.approx(np.mean(right & (certificate.certified_radius[ids] >= float(radius))))
            for radius in ("0.3", "0.5")
        },
        "lipschitz_bound": pytest.approx(certificate.lipschitz_bound),
    }
    assert by_export == by_model | {"model": "serving/1", "lipschitz_bound": pytest.approx(by_model["lipschitz_bound"])}
    assert all(name in certify.__doc__ for name in by_model)


def test_radii_are_told_where_asked(answer, certificate, digits):
    figures, _ = answer("certify", "--model", "model.keras", "--radius", "36/255", "--radius", 0.7)
    told = {float(radius): share for radius, share in figures["certified_accuracy"].items()}
    assert told == {radius: pytest.approx(certificate.accuracy_at(radius, digits[1][1])) for radius in (36 / 255, 0.7)}


def test_a_sample_as_large_as_the_data_set_is_the_data_set(answer, certificate, digits):
    figures, _ = answer("certify", "--model", "model.keras", "--examples", 1000)
    assert (figures["ids"], figures["test_images"]) == (None, 360)
    assert figures["clean_accuracy"] == pytest.approx(np.mean(certificate.class_ids == digits[1][1]))


def test_radii_without_a_rounding_analysis_are_not_called_certified(trained, clustr_here, answer, monkeypatch):
    made = ClustrClassifier.certify

    def without(self, *args, **kwargs):
        return dataclasses.replace(made(self, *args, **kwargs), certified_radius=None)

    monkeypatch.setattr(ClustrClassifier, "certify", without)
    arguments = ("certify", "--model", "model.keras", "--examples", 5, "--output", "uncertified.csv")
    figures, _ = answer(*arguments)
    assert "certified_accuracy" not in figures
    assert set(figures["uncertified_accuracy"]) == {"0.3", "0.5"}
    code, out, _ = clustr_here(*arguments, cwd=trained)
    assert code == 0
    assert "which are not certified" in " ".join(out.split())
    rows = list(csv.DictReader((trained / "uncertified.csv").open()))
    assert {row["certified_radius"] for row in rows} == {""}
    assert all(float(row["radius"]) > 0 for row in rows)
