import dataclasses

import keras
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from clustr_keras import ClustrClassifier
from clustr_keras.attacks import ProjectedGradientDescent
from clustr_keras.backbones import lipschitz_mlp
from clustr_keras.evaluation import audit


@pytest.fixture(scope="module")
def images(digits):
    _, (x_test, _) = digits
    return x_test[:48]


def l_2(model, steps=20, restarts=1, batch_size=48):
    logits = model.certifier().deployed_logits
    return ProjectedGradientDescent(logits, "l_2", steps=steps, restarts=restarts, batch_size=batch_size)


def inflate(monkeypatch, model, factor):
    """Makes the model claim `factor` times its certified radii."""
    certify = model.certify

    def inflated(*args, **kwargs):
        certificate = certify(*args, **kwargs)
        return dataclasses.replace(certificate, certified_radius=factor * certificate.certified_radius)

    monkeypatch.setattr(model, "certify", inflated)


def assert_refuted(model, images, result, radius):
    """Every counterexample is a flip inside the radius that was claimed, in an arithmetic of the test's own."""
    assert len(result.violations) == len(result.counterexamples)
    assert result.counterexamples.shape[1:] == images.shape[1:]
    difference = result.counterexamples.astype("float64") - images[result.violations].astype("float64")
    assert (np.sqrt((difference**2).sum(axis=(1, 2, 3))) < radius[result.violations]).all()
    assert result.counterexamples.min() >= 0
    assert result.counterexamples.max() <= 1
    before = model.predict(images[result.violations], verbose=0).argmax(1)
    after = model.predict(result.counterexamples, verbose=0).argmax(1)
    assert (before != after).all()


def test_a_right_certificate_has_no_violations(classifier, images):
    result = audit(classifier, images, batch_size=48)
    assert result.examples == 48
    assert result.attacks == ("PGD l_2, 40 steps x 5 restarts",)
    assert result.violations.shape == (0,)
    assert result.counterexamples.shape == (0, 8, 8, 1)
    assert result.as_dict() == {"examples": 48, "attacks": ["PGD l_2, 40 steps x 5 restarts"], "violations": 0}


def test_every_example_is_attacked_just_inside_its_own_radius(classifier, images):
    seen = []

    class Recorder:
        norm, name = "l_2", "a recorder"

        def __call__(self, attacked, labels, eps, progress=None):
            seen.append((attacked, labels, eps))
            return l_2(classifier, steps=1)(attacked, labels, 0.0)

    audit(classifier, images, attacks=[Recorder()])
    certificate = classifier.certify(images)
    ((attacked, labels, eps),) = seen
    assert_array_equal(attacked, images)
    assert_array_equal(labels, certificate.class_ids)
    assert_array_equal(eps, certificate.certified_radius.astype("float64"))


def test_radii_made_too_large_are_refuted(classifier, images, monkeypatch):
    claimed = 6 * classifier.certify(images).certified_radius.astype("float64")
    inflate(monkeypatch, classifier, 6)
    result = audit(classifier, images, attacks=[l_2(classifier)])
    assert len(result.violations) > 24
    assert result.as_dict()["violations"] == len(result.violations)
    assert list(result.violations) == sorted(result.violations)
    assert_refuted(classifier, images, result, claimed)


def test_a_lipschitz_bound_that_is_too_small_is_refuted(digits, images):
    (x_train, y_train), _ = digits
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    backbone = keras.Model(inputs, keras.layers.Dense(16)(keras.layers.Flatten()(inputs)))
    model = ClustrClassifier(backbone, num_classes=10)
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(x_train[:512], y_train[:512], epochs=3, verbose=0)
    assert len(audit(model, images, attacks=[l_2(model)]).violations) == 0

    certifier = model.certifier()
    right = certifier.bound
    wrong = dataclasses.replace(right, value=right.value / 8, rounding_slope=0.0, rounding_intercept=0.0)
    certifier.bound = wrong
    certifier.predict_function = None
    claimed = model.certify(images).certified_radius.astype("float64")
    result = audit(model, images, attacks=[l_2(model)])
    assert len(result.violations) > 0
    assert_refuted(model, images, result, claimed)


def test_an_example_refuted_by_two_attacks_is_one_violation(classifier, images, monkeypatch):
    inflate(monkeypatch, classifier, 6)
    attacks = [l_2(classifier, batch_size=8), l_2(classifier, steps=25, batch_size=8)]
    result = audit(classifier, images[:8], attacks=attacks)
    assert result.attacks == ("PGD l_2, 20 steps x 1 restarts", "PGD l_2, 25 steps x 1 restarts")
    assert len(result.violations) == len(set(result.violations)) == len(result.counterexamples)


def test_a_flip_on_or_outside_the_radius_is_no_violation(classifier, images):
    radius = classifier.certify(images).certified_radius.astype("float64")

    class Outside:
        norm, name = "l_2", "outside"

        def __call__(self, attacked, labels, eps, progress=None):
            result = l_2(classifier)(attacked, labels, 6 * eps)
            return dataclasses.replace(result, distance=np.maximum(result.distance, radius))

    result = audit(classifier, images, attacks=[Outside()])
    assert len(result.violations) == 0


def test_an_attack_that_only_claims_a_flip_is_not_believed(classifier, images):
    class Liar:
        norm, name = "l_2", "a liar"

        def __call__(self, attacked, labels, eps, progress=None):
            result = l_2(classifier, steps=1)(attacked, labels, 0.0)
            return dataclasses.replace(result, is_flipped=np.ones(len(attacked), bool))

    assert len(audit(classifier, images[:4], attacks=[Liar()]).violations) == 0


def test_an_attack_in_l_inf_is_refused(classifier, images):
    attack = ProjectedGradientDescent(classifier, "l_inf")
    with pytest.raises(ValueError, match="certified radii are l_2"):
        audit(classifier, images, attacks=[l_2(classifier), attack])


def test_an_audit_without_attacks_is_refused(classifier, images):
    with pytest.raises(ValueError, match="attack"):
        audit(classifier, images, attacks=[])


def test_a_model_without_certified_radii_is_refused(images):
    inputs = keras.Input((8, 8, 1))
    outputs = keras.layers.Dense(4, activation="tanh")(keras.layers.Flatten()(inputs))
    with pytest.raises(ValueError, match="no certified radius"):
        audit(ClustrClassifier(keras.Model(inputs, outputs), 10), images)


@pytest.mark.parametrize(
    ("change", "match"),
    [(lambda x: x + 0.5, "finite and lie in"), (lambda x: x[:0], "at least one"), (lambda x: x[:, :7], "shape")],
)
def test_what_is_no_batch_of_images_is_refused(classifier, images, change, match):
    with pytest.raises(ValueError, match=match):
        audit(classifier, change(images))


def test_progress_counts_the_attempts(classifier, images):
    seen = []
    audit(classifier, images, attacks=[l_2(classifier, steps=1, restarts=2)], progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 96


def test_an_untrained_model_holds_too(images):
    keras.utils.set_random_seed(1)
    model = ClustrClassifier(lipschitz_mlp((8, 8, 1), (16, 8)), 10, clusters_per_class=2)
    radius = model.certify(images).certified_radius
    assert radius.min() < 0.05  # near the boundaries, where rounding would show
    assert len(audit(model, images, attacks=[l_2(model, restarts=2)]).violations) == 0
