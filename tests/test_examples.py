"""Each example, run as a user runs it, at small scale; what it prints is held against the model that it saved."""

import json
import pathlib
import re
import runpy
import sys

import keras
import numpy as np
import pytest
from PIL import Image

from clustr_keras import evaluation
from clustr_keras.data import as_floats, load, random_rows
from clustr_keras.serving import LocalServer, export_model
from clustr_keras.training import certified_recipe, paper_recipe

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(tmp_path, monkeypatch, capsys):
    """Runs an example in a folder of its own; returns its names and what it printed."""

    def run(name, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        names = runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return names, capsys.readouterr().out

    return run


def shares(certificate, labels, radii):
    """Share that is right, and shares that are right and certified at each radius, by their definition."""
    is_right = certificate.class_ids == labels
    return is_right.mean(), *[np.mean(is_right & (certificate.certified_radius >= radius)) for radius in radii]


def test_each_example_is_short_and_has_a_test():
    lines = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    tested = re.findall(r"example\(\"(\w+\.py)\"", pathlib.Path(__file__).read_text())
    assert set(lines) == set(tested)
    assert max(lines.values()) < 80
    assert lines["digits.py"] <= 30


def test_digits(example, tmp_path, digits):
    _, printed = example("digits.py", "--epochs", 4)
    _, (images, labels) = digits
    certificate = keras.models.load_model(tmp_path / "digits.keras").certify(images)
    right, proved = shares(certificate, labels, [0.3])
    assert right > 0.9
    assert proved > 0.5
    assert f"right: {right:.1%}\nright, and proved to stay so within 0.3: {proved:.1%}\n" in printed
    answers = re.findall(r"a (\d), and so after every change of l_2 norm below ([\d.]+)", printed)
    answers = [(int(class_id), float(radius)) for class_id, radius in answers]
    assert answers == list(zip(certificate.class_ids[:3], certificate.certified_radius[:3].round(3), strict=True))


def test_cifar10_paper_has_the_published_settings_and_goes_on_where_it_was(example, tmp_path):
    arguments = ("--data", "digits", "--fast", "--epochs", 3, 1, "--eps", 0.1, "--examples", 60)
    names, printed = example("cifar10_paper.py", *arguments)
    data, recipe, trained = load("digits"), paper_recipe("clustr-qtrades", eps=0.1).faster(), names["model"]
    assert (trained.clusters_per_class, trained.loss.alpha) == (recipe.clusters_per_class, recipe.alpha)
    assert trained.get_compile_config()["consistency"]["config"] == recipe.consistency.get_config()
    assert float(trained.optimizer.learning_rate) == pytest.approx(recipe.learning_rate)
    assert int(trained.optimizer.iterations) == -(-len(data.train) // recipe.batch_size)  # of the one epoch of QTRADES

    saved = keras.models.load_model(tmp_path / "runs/cifar10_paper/model.keras", compile=False)
    rows = random_rows(len(data.test), 60)
    class_ids = saved.predict(as_floats(data.test.images[rows]), verbose=0).argmax(-1)
    figures = re.findall(r"^ClusTR.*: clean ([\d.]+)%, under PGD l_inf, 20 steps .* ([\d.]+)%$", printed, re.MULTILINE)
    (_, weak), (clean, robust) = [tuple(map(float, pair)) for pair in figures]
    assert clean == pytest.approx(100 * np.mean(class_ids == data.test.labels[rows]), abs=0.05)
    assert weak < robust < clean

    _, again = example("cifar10_paper.py", *arguments)
    assert again.splitlines() == [line for line in printed.splitlines() if line.startswith("ClusTR")]


def test_cifar10_certified_has_the_settings_of_the_recipe_and_goes_on_where_it_was(example, tmp_path):
    arguments = ("--data", "digits", "--epochs", 8)
    names, printed = example("cifar10_certified.py", *arguments)
    data, recipe, trained = load("digits"), certified_recipe("cifar10"), names["model"]
    assert (trained.loss.temperature, trained.loss.margin) == (recipe.temperature, recipe.margin)
    assert (trained.backbone.name, names["batches"].batch_size) == (recipe.backbone, recipe.batch_size)
    rates = [float(names["schedule"](step)) for step in (0, round(recipe.warmup * names["steps"]), names["steps"])]
    assert rates == pytest.approx([0.0, recipe.learning_rate, 0.0])

    certificate = keras.models.load_model(tmp_path / "runs/cifar10_certified/model.keras").certify(data.test.images)
    clean, *certified = shares(certificate, data.test.labels, [36 / 255, 72 / 255, 108 / 255])
    assert clean > certified[0] > certified[2] > 0
    assert f"clean accuracy {clean:.2%}\n" in printed
    for numerator, share in zip((36, 72, 108), certified, strict=True):
        assert f"certified accuracy at {numerator}/255 {share:.2%}\n" in printed

    _, again = example("cifar10_certified.py", *arguments)
    assert "Epoch" not in again
    assert printed.endswith(again)


@pytest.fixture
def photos(tmp_path, digits):
    """A folder of PNG files, with a subfolder for zeros and one for ones."""
    images, labels = digits[0]
    for class_id, name in enumerate(("zero", "one")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number, image in enumerate(images[labels == class_id][:60]):
            path = tmp_path / "photos" / name / f"{number}.png"
            Image.fromarray((255 * image[..., 0]).round().astype("uint8")).save(path)
    return tmp_path / "photos"


def test_own_images_lists_the_least_certain_files(example, photos, tmp_path):
    names, printed = example("own_images.py", photos, "--size", 8, "--epochs", 8, "--output", tmp_path / "own.keras")
    files = names["files"]
    assert len(files) == 24
    images = np.stack([np.asarray(Image.open(file).convert("RGB"), "float32") / 255.0 for file in files])
    model = keras.models.load_model(tmp_path / "own.keras")
    certificate = model.certify(images)
    labels = np.array([model.class_names.index(pathlib.Path(file).parent.name) for file in files])
    right, proved = shares(certificate, labels, [0.1])
    assert right > 0.9
    assert f"24 images held back: {right:.1%} right, {proved:.1%} right and proved to stay so within 0.1\n" in printed

    listed = re.findall(r"^  (.*): (\w+) within ([\d.]+), then (\w+)$", printed, re.MULTILINE)
    radius_of = dict(zip(files, certificate.certified_radius, strict=True))
    class_of = dict(zip(files, certificate.class_ids, strict=True))
    radii = [float(radius) for _, _, radius, _ in listed]
    np.testing.assert_allclose(radii, np.sort(certificate.certified_radius)[:10], atol=1e-3)
    for file, answer, radius, rival in listed:
        assert radius_of[file] == pytest.approx(float(radius), abs=1e-3)
        assert {answer, rival} == {"one", "zero"}
        assert answer == model.class_names[class_of[file]]


def test_tune_digits_saves_the_model_that_it_praises(example, tmp_path, digits):
    _, printed = example("tune_digits.py", "--max-trials", 2, "--epochs", 1)
    assert len(re.findall(r"^trial \d: 0\.\d+ clean, 0\.\d+ at 0\.3$", printed, re.MULTILINE)) == 2
    _, (images, labels) = digits
    certificate = keras.models.load_model(tmp_path / "runs/tune_digits/best.keras").certify(images)
    clean, certified = shares(certificate, labels, [0.3])
    assert f"test images: {clean:.3f} clean, {certified:.3f} certified at 0.3" in printed


def test_evaluate_foreign_model_says_by_its_exit_status_whether_to_believe_it(
    example, tmp_path, digits, capsys, monkeypatch
):
    arguments = ("--examples", 40, "--attack", "pgd-20")
    with pytest.raises(SystemExit) as ended:
        example("evaluate_foreign_model.py", *arguments)
    printed, folder = capsys.readouterr().out, tmp_path / "runs/evaluate_foreign_model"
    assert ended.value.code == 0
    assert "FAIL" not in printed
    assert "\nvanishing gradients: pass\n" in printed
    foreign = keras.models.load_model(folder / "foreign.keras")
    _, (images, labels) = digits
    rows = random_rows(len(images), 40)
    clean = np.mean(foreign.predict(images[rows], verbose=0).argmax(-1) == labels[rows])
    results = json.loads((folder / "results.json").read_text())
    assert results["clean_accuracy"] == clean
    robust = results["robust_accuracy"]["l_2 0.3"]
    assert 0 < robust < clean
    assert f"clean accuracy {clean:.1%}\naccuracy under l_2 0.3 {robust:.1%}\n" in printed
    assert "<html" in (folder / "report.html").read_text()

    # Again, from what the attacks have found, with another verdict.
    monkeypatch.setattr(evaluation, "train_surrogate", lambda *_: None)
    monkeypatch.setattr(evaluation.Evaluation, "passed", False)
    with pytest.raises(SystemExit) as ended:
        example("evaluate_foreign_model.py", *arguments, "--model", folder / "foreign.keras")
    assert ended.value.code == 1
    assert f"accuracy under l_2 0.3 {robust:.1%}\n" in capsys.readouterr().out


def test_query_endpoint_prints_what_the_model_proves(example, tmp_path, digits, classifier):
    export_model(classifier, tmp_path / "clustr")
    _, (images, labels) = digits
    certificate = classifier.certify(images[:3])
    with LocalServer(tmp_path / "clustr") as server:
        for target in (server.grpc_target, server.rest_url):
            _, printed = example("query_endpoint.py", "--target", target, "--rest", server.rest_url, "--radius", 0.6)
            ours, plain = printed.split(f"{server.rest_url} says:\n")[-2:]
            answers = re.findall(r"a (\d) is a (\d) \([\d.]+%\), then a (\d); .* below ([\d.]+) .*; (\w+)", ours)
            given, class_ids, rivals, radii, verdicts = zip(*answers, strict=True)
            np.testing.assert_array_equal(np.int64(given), labels[:3])
            np.testing.assert_array_equal(np.int64(class_ids), certificate.class_ids)
            np.testing.assert_array_equal(np.int64(rivals), certificate.runner_up_class_ids)
            np.testing.assert_allclose(np.float64(radii), certificate.certified_radius, atol=2e-5)
            assert [verdict == "enough" for verdict in verdicts] == list(certificate.certified_radius >= 0.6)
            plain_class_ids, plain_radii = zip(*re.findall(r"is a (\d) within ([\d.]+)", plain), strict=True)
            assert plain_class_ids == class_ids
            np.testing.assert_allclose(np.float64(plain_radii), np.float64(radii), atol=2e-6)
