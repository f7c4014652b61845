import dataclasses
import functools
import importlib
import json

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from clustr_keras import ClustrClassifier
from clustr_keras.evaluation.broken import broken_certificates
from clustr_keras.evaluation.diagnostics import Diagnostics
from clustr_keras.evaluation.evaluate import evaluate
from clustr_keras.evaluation.target import as_target
from clustr_keras.evaluation.threat_model import ThreatModel

EVALUATE = importlib.import_module("clustr_keras.evaluation.evaluate")  # the package has the function by that name
COUNT = 50
THREATS = (ThreatModel("l_2", 0.6), ThreatModel("l_inf", 0.1), ThreatModel("l_2", 0.2))
ATTACKS = ("pgd-20", "pgd-margin")


@pytest.fixture
def without_diagnostics(monkeypatch):
    """They take most of the time of an evaluation, and have tests of their own."""
    monkeypatch.setattr(EVALUATE, "Diagnostics", lambda *_: lambda *_: ())


@pytest.fixture(scope="module")
def test_images(digits):
    return digits[1][0][:COUNT], digits[1][1][:COUNT]


@pytest.fixture(scope="module")
def linear(digits):
    """A classifier that is attacked in a fraction of the time: one dense layer, and one cluster per class."""
    keras.utils.set_random_seed(0)
    images, labels = digits[0]
    layers = [keras.layers.Flatten(), keras.layers.Dense(16)]
    model = ClustrClassifier(keras.Sequential([keras.Input((8, 8, 1)), *layers]), 10)
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(images[:512], labels[:512], epochs=3, verbose=0)
    return model


@pytest.fixture(scope="module")
def evaluation(classifier, test_images, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        quick = functools.partial(Diagnostics, steps=40, restarts=2, queries=400)
        patch.setattr(EVALUATE, "Diagnostics", quick)
        folder = tmp_path_factory.mktemp("stages")
        return evaluate(classifier, *test_images, THREATS, ATTACKS, subset=20, folder=folder)


def test_robust_accuracy_lies_between_certified_and_clean_accuracy(evaluation, classifier, test_images):
    certificate = classifier.certify(test_images[0])
    assert evaluation.clean_accuracy == certificate.accuracy_at(0.0, test_images[1])
    assert [str(threat.threat_model) for threat in evaluation.threats] == ["l_inf 25.5/255", "l_2 0.2", "l_2 0.6"]
    for threat in evaluation.threats[1:]:
        certified = certificate.accuracy_at(threat.threat_model.eps, test_images[1])
        assert certified <= threat.robust_accuracy <= evaluation.clean_accuracy
        # The attacks are not far from what is proved.
        assert threat.robust_accuracy - certified < 0.3
    assert evaluation.certified_accuracy[0.5] == certificate.accuracy_at(0.5, test_images[1])


def test_a_certified_model_passes_every_diagnostic_and_keeps_its_certificates(evaluation):
    assert evaluation.failed == []
    assert evaluation.broken == ()
    assert evaluation.passed


def test_flips_are_flips_within_eps(evaluation, classifier, test_images):
    images, labels = test_images
    for threat in evaluation.threats:
        fallen = (evaluation.class_ids == labels) & ~threat.is_standing
        assert_array_equal(classifier.certify(threat.adversarial).class_ids[fallen], threat.flipped_to[fallen])
        order = np.inf if threat.threat_model.norm == "l_inf" else 2
        difference = (threat.adversarial.astype("float64") - images).reshape(COUNT, -1)
        assert (np.linalg.norm(difference, ord=order, axis=-1)[fallen] <= threat.threat_model.eps).all()
        assert fallen.any()


def test_its_figures_are_json(evaluation):
    figures = json.loads(json.dumps(evaluation.as_dict()))
    assert figures["examples"] == COUNT
    assert figures["subset"] == 20
    assert set(figures["robust_accuracy"]) == {"l_inf 25.5/255", "l_2 0.2", "l_2 0.6"}
    low, high = figures["clean_accuracy_interval"]
    assert low <= figures["clean_accuracy"] <= high
    attack = figures["threat_models"][0]["attacks"][1]
    assert attack["description"] == "PGD l_inf, 100 steps x 5 restarts, decaying"
    assert figures["threat_models"][0]["attacks"][-1]["cumulative"] == figures["robust_accuracy"]["l_inf 25.5/255"]
    assert figures["certified_accuracy"]["0.5"] == evaluation.certified_accuracy[0.5]
    assert "uncertified_accuracy" not in figures


@pytest.mark.usefixtures("without_diagnostics")
def test_an_interrupted_evaluation_goes_on_where_it_was(linear, test_images, tmp_path):
    arguments = {"threat_models": THREATS[:1], "attacks": ATTACKS[:1], "subset": 10, "folder": tmp_path}
    seen = []

    def interrupt(stage):
        seen.append(stage)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(linear, *test_images, **arguments, progress=interrupt)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(before) >= 2
    resumed = evaluate(linear, *test_images, **arguments)
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert before.items() <= after.items()
    whole = evaluate(linear, *test_images, **{**arguments, "folder": None})
    assert [t.robust_accuracy for t in resumed.threats] == [t.robust_accuracy for t in whole.threats]
    assert_allclose(resumed.threats[0].adversarial, whole.threats[0].adversarial)


@pytest.mark.usefixtures("without_diagnostics")
def test_a_flip_inside_a_certified_radius_is_reported(linear, test_images):
    """Whatever the threat models are: attacks look inside each radius."""
    threats = [ThreatModel("l_2", 0.01), ThreatModel("l_2", 3.0)]
    target = as_target(linear)

    def boast(images):
        certificate = target.certify(images)
        return dataclasses.replace(certificate, certified_radius=certificate.certified_radius * np.float32(2.0))

    boasting = dataclasses.replace(target, certify=boast)
    evaluation = evaluate(boasting, *test_images, threats, ["pgd-margin"], subset=5, ids=range(7, 57))
    assert len(evaluation.broken) > 0.9 * COUNT
    assert not evaluation.passed
    found = evaluation.broken[0]
    difference = found.adversarial.astype("float64") - test_images[0][found.index]
    assert found.distance == pytest.approx(np.linalg.norm(difference))
    assert found.distance < found.certified_radius
    assert found.class_after == linear.certify(found.adversarial[None]).class_ids[0] != found.class_before
    assert evaluation.as_dict()["broken_certificates"][0]["index"] == found.index + 7


@pytest.mark.usefixtures("without_diagnostics")
def test_radii_in_real_arithmetic_are_held_to_what_they_say(linear, test_images):
    target = as_target(linear)

    def without_slack(images, factor):
        certificate = target.certify(images)
        return dataclasses.replace(certificate, certified_radius=None, radius=certificate.radius * np.float32(factor))

    for factor, is_broken in ((1.0, False), (2.0, True)):
        changed = dataclasses.replace(target, certify=lambda images, factor=factor: without_slack(images, factor))
        evaluation = evaluate(changed, *test_images, [ThreatModel("l_2", 0.5)], ["pgd-margin"], subset=5)
        assert bool(evaluation.broken) is is_broken
        assert evaluation.certified_accuracy == {}  # nothing is certified, and nothing is called so
        assert 0.0 < evaluation.uncertified_accuracy[0.3] <= evaluation.clean_accuracy
        figures = evaluation.as_dict()
        assert figures["uncertified_accuracy"]["0.3"] == evaluation.uncertified_accuracy[0.3]
        assert "certified_accuracy" not in figures


def test_the_worst_case_is_over_every_flip_found(evaluation, classifier, test_images):
    is_right = evaluation.class_ids == test_images[1]
    for threat in evaluation.threats:
        known = evaluation.smallest_flips[threat.threat_model.norm] <= threat.threat_model.eps
        assert_array_equal(threat.is_standing, is_right & ~known)
    for diagnostic in evaluation.diagnostics:
        (threat,) = [
            threat
            for threat in evaluation.threats
            if (threat.threat_model.norm, threat.threat_model.eps) == (diagnostic.norm, diagnostic.eps)
        ]
        rows = np.sort(np.random.default_rng(0).permutation(COUNT)[:20])
        if "white box" in diagnostic.figures:
            assert threat.is_standing[rows].mean() <= min(diagnostic.figures.values())


@pytest.mark.usefixtures("without_diagnostics")
def test_what_was_kept_of_one_model_is_not_taken_for_another(linear, test_images, tmp_path):
    """Both have the same logits; the gradients of the first one lead back."""
    images = linear.backbone.inputs
    backward, honest = keras.Model(images, Backward()(linear(images[0]))), keras.Model(images, linear(images[0]))
    arguments = {"threat_models": THREATS[:1], "attacks": ["pgd-20"], "subset": 10}
    first = evaluate(backward, *test_images, **arguments, folder=tmp_path)
    second = evaluate(honest, *test_images, **arguments, folder=tmp_path)
    alone = evaluate(honest, *test_images, **arguments)
    assert second.threats[0].robust_accuracy == alone.threats[0].robust_accuracy < first.threats[0].scores[0].cumulative


class Backward(keras.layers.Layer):
    def call(self, logits):
        return 2.0 * keras.ops.stop_gradient(logits) - logits


@pytest.mark.usefixtures("without_diagnostics")
def test_the_scores_of_the_paper_may_be_evaluated(linear, test_images):
    evaluation = evaluate(linear, *test_images, [ThreatModel("l_inf", 0.1)], ["pgd-20"], scores="paper", subset=20)
    assert evaluation.certified_accuracy == {}
    assert evaluation.as_dict()["certified_accuracy"] == evaluation.uncertified_accuracy == {}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"threat_models": []}, "at least one threat model"),
        ({"attacks": ["pgd-7"]}, "there is no attack pgd-7; expected some of pgd-20"),
        ({"attacks": []}, "so that nothing would be shown"),
        (
            {"attacks": ["carlini-wagner"], "threat_models": [ThreatModel("l_inf", 0.1)]},
            "of the attacks carlini-wagner none is for l_inf and 10 classes",
        ),
        ({"labels": np.arange(COUNT)}, "labels"),
        ({"images": np.full((COUNT, 8, 8, 1), 2.0)}, "images"),
    ],
)
def test_arguments_are_checked(classifier, test_images, change, match):
    arguments = {"images": test_images[0], "labels": test_images[1], "threat_models": THREATS[:1]}
    with pytest.raises(ValueError, match=match):
        evaluate(classifier, **{**arguments, **change})


def test_without_certificates_there_are_none_to_break(evaluation):
    target = dataclasses.replace(evaluation.target, certify=None)
    with pytest.raises(ValueError, match="makes none"):
        broken_certificates(target, certificate=None, flips=None, stages=None)
