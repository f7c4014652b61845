import dataclasses
import functools
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_array_equal

from clustr_keras import ClustrClassifier
from clustr_keras.attacks import ProjectedGradientDescent
from clustr_keras.backbones import lipschitz_mlp
from clustr_keras.evaluation import audit, default_attacks
from clustr_keras.evaluation.audit import flips_inside

DEFAULT_ATTACKS = (
    "PGD l_2, 40 steps x 5 restarts",
    "bisector l_2, 30 steps x 8 rivals",
    "Carlini-Wagner l_2, 200 steps x 6 constants, on at most 64 examples",
)


@pytest.fixture(scope="module")
def images(digits):
    _, (x_test, _) = digits
    return x_test[:48]


@functools.cache  # its graph takes longer to make than to run
def l_2(model, steps=20, restarts=1, batch_size=48):
    logits = model.certifier().deployed_logits
    return ProjectedGradientDescent(logits, "l_2", steps=steps, restarts=restarts, batch_size=batch_size)


def inflate(monkeypatch, model, factor):
    """Makes the model claim `factor` times its certified radii."""
    certify = model.certify

    def inflated(*args, **kwargs):
        certificate = certify(*args, **kwargs)
        claimed = (factor * certificate.certified_radius.astype("float64")).astype("float32")
        return dataclasses.replace(certificate, certified_radius=claimed)

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
    assert [record.index for record in result.records] == result.violations.tolist()
    assert [record.class_before for record in result.records] == before.tolist()
    assert [record.class_after for record in result.records] == after.tolist()
    distances = [record.distance for record in result.records]
    np.testing.assert_allclose(distances, np.sqrt((difference**2).sum(axis=(1, 2, 3))), rtol=1e-12)
    assert [record.certified_radius for record in result.records] == radius[result.violations].tolist()


def test_a_right_certificate_has_no_violations(classifier, images):
    result = audit(classifier, images, batch_size=48)
    assert result.examples == 48
    assert result.attacks == DEFAULT_ATTACKS
    assert result.violations.shape == (0,)
    assert result.counterexamples.shape == (0, 8, 8, 1)
    assert result.records == ()
    assert result.as_dict() == {"examples": 48, "attacks": list(DEFAULT_ATTACKS), "violations": 0}


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
    images = images[:24]
    inflate(monkeypatch, classifier, 6)
    claimed = classifier.certify(images).certified_radius.astype("float64")
    result = audit(classifier, images, attacks=[l_2(classifier)])
    assert len(result.violations) > 12
    assert result.as_dict()["violations"] == len(result.violations)
    assert list(result.violations) == sorted(result.violations)
    assert_refuted(classifier, images, result, claimed)


def test_a_lipschitz_bound_that_is_too_small_is_refuted(digits, images):
    images = images[:16]
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


def test_a_flip_outside_the_radius_is_no_violation(classifier, images):
    class Outside:
        norm, name = "l_2", "outside"

        def __call__(self, attacked, labels, eps, progress=None):
            return l_2(classifier)(attacked, labels, 6 * eps)

    result = audit(classifier, images, attacks=[Outside()])
    assert len(result.violations) == 0


@pytest.mark.parametrize(("distance", "flips"), [(0.5, []), (np.nextafter(0.5, 0.0), [(0, 3, 1)])])
def test_a_flip_on_the_radius_is_not_inside_it(images, distance, flips):
    def certify(attacked):
        return types.SimpleNamespace(class_ids=np.ones(len(attacked), int))

    found = flips_inside(certify, np.int64([3]), np.float64([0.5]), images[:1], np.float64([distance]), [True], {})
    assert list(found) == flips


def test_an_attack_that_only_claims_a_flip_is_not_believed(classifier, images):
    class Liar:
        norm, name = "l_2", "a liar"

        def __call__(self, attacked, labels, eps, progress=None):
            result = l_2(classifier, steps=1)(attacked, labels, 0.0)
            return dataclasses.replace(result, is_flipped=np.ones(len(attacked), bool))

    assert len(audit(classifier, images[:4], attacks=[Liar()]).violations) == 0


def test_each_default_attack_refutes_radii_made_too_large(classifier, images, monkeypatch):
    images = images[:12]
    inflate(monkeypatch, classifier, 3)
    claimed = classifier.certify(images).certified_radius.astype("float64")
    for attack in default_attacks(classifier, batch_size=12, subset=8):
        result = audit(classifier, images, attacks=[attack])
        assert len(result.violations) > 4, attack.name
        assert {record.attack for record in result.records} == {attack.name}
        assert_refuted(classifier, images, result, claimed)


def test_of_several_flips_of_an_example_the_smallest_is_kept(classifier, images, monkeypatch):
    images = images[:6]
    inflate(monkeypatch, classifier, 6)
    attacks = [l_2(classifier, batch_size=6), *default_attacks(classifier, batch_size=6)[1:]]
    together = audit(classifier, images, attacks=attacks)
    smallest = {}
    for attack in attacks:
        for record in audit(classifier, images, attacks=[attack]).records:
            smallest[record.index] = min(smallest.get(record.index, np.inf), record.distance)
    assert {record.index: record.distance for record in together.records} == pytest.approx(smallest, rel=1e-5)


def test_a_distance_that_is_only_claimed_is_not_believed(classifier, images):
    class Shortener:
        norm, name = "l_2", "a shortener"

        def __call__(self, attacked, labels, eps, progress=None):
            result = l_2(classifier)(attacked, labels, 6 * eps)
            return dataclasses.replace(result, distance=np.zeros(len(attacked)))

    assert len(audit(classifier, images, attacks=[Shortener()]).violations) == 0


def test_a_data_set_is_audited_as_its_images_are(classifier, images, monkeypatch):
    images = images[:12]
    inflate(monkeypatch, classifier, 6)
    attack = l_2(classifier, batch_size=12)
    expected = audit(classifier, images, attacks=[attack])
    labels = np.zeros(len(images), int)
    for dataset in (tf.data.Dataset.from_tensor_slices(images), tf.data.Dataset.from_tensor_slices((images, labels))):
        result = audit(classifier, dataset.batch(5), attacks=[attack])
        assert result.examples == 12
        assert result.records == expected.records
        assert_array_equal(result.counterexamples, expected.counterexamples)


def test_an_empty_data_set_is_refused(classifier):
    empty = tf.data.Dataset.from_tensor_slices(np.zeros((0, 8, 8, 1), "float32")).batch(4)
    with pytest.raises(ValueError, match="the data set is empty"):
        audit(classifier, empty)


def test_an_example_without_a_radius_holds_trivially(classifier, images, monkeypatch):
    inflate(monkeypatch, classifier, 0)
    assert len(audit(classifier, images, attacks=[l_2(classifier)]).violations) == 0


def test_saved_counterexamples_can_be_checked_by_anyone(classifier, images, monkeypatch, tmp_path):
    images = images[:12]
    inflate(monkeypatch, classifier, 6)
    result = audit(classifier, images, attacks=[l_2(classifier)])
    (tmp_path / "counterexample-99999.npz").write_text("of an earlier audit")
    paths = result.save_counterexamples(images, tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert [path.name for path in paths] == [f"counterexample-{index}.npz" for index in result.violations]
    for path, index in zip(paths, result.violations, strict=True):
        with np.load(path) as saved:
            assert_array_equal(saved["image"], images[index])
            gap = saved["adversarial"].astype("float64") - saved["image"].astype("float64")
            assert np.linalg.norm(gap) == pytest.approx(float(saved["distance"]), rel=1e-12)
            assert saved["distance"] < saved["certified_radius"]
            classes = classifier.predict(np.stack([saved["image"], saved["adversarial"]]), verbose=0).argmax(1)
            assert classes.tolist() == [saved["class_before"], saved["class_after"]]


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


def test_progress_goes_on_from_attack_to_attack(classifier, images):
    seen = []
    attacks = [l_2(classifier, steps=1, restarts=2), l_2(classifier, steps=1, restarts=3)]
    audit(classifier, images, attacks=attacks, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == sum(attack.attempts(48) for attack in attacks) == 5 * 48


def test_an_untrained_model_holds_too(images):
    keras.utils.set_random_seed(1)
    model = ClustrClassifier(lipschitz_mlp((8, 8, 1), (16, 8)), 10, clusters_per_class=2)
    radius = model.certify(images).certified_radius
    assert radius.min() < 0.05  # near the boundaries, where rounding would show
    assert len(audit(model, images, attacks=[l_2(model, restarts=2)]).violations) == 0
