import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize

from clustr_keras import ClustrClassifier
from clustr_keras.attacks import BisectorAttack

SHAPE = (2, 3, 1)
DIM = 6


def identity_model(clusters, seed=0, classes=4):
    """A classifier whose embeddings are its pixels, with centers well inside of [0, 1]."""
    generator = np.random.default_rng(seed)
    model = ClustrClassifier(keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten()]), classes, clusters)
    means = generator.uniform(0.4, 0.6, (classes, 1, DIM))
    centers = (means + generator.uniform(-0.1, 0.1, (classes, clusters, DIM))).astype("float32")
    model.head.centers.assign(centers)
    images = generator.uniform(0.4, 0.6, (30, *SHAPE)).astype("float32")
    return model, centers.astype("float64"), images


def distance_by_slsqp(image, centers):
    """Distance to the nearest point where some center of another class is at least as near as all of the own."""
    z = image.reshape(-1).astype("float64")
    label = ((z - centers) ** 2).sum(-1).min(1).argmin()
    best = np.inf
    for rival in np.delete(centers, label, axis=0).reshape(-1, DIM):
        faces = centers[label] - rival
        # Linear in s: ||z + s - own||^2 - ||z + s - rival||^2 >= 0.
        offsets = ((z - centers[label]) ** 2).sum(-1) - ((z - rival) ** 2).sum()
        constraint = {
            "type": "ineq",
            "fun": lambda s, f=faces, o=offsets: o - 2 * f @ s,
            "jac": lambda s, f=faces: -2 * f,
        }
        found = minimize(
            lambda s: 50 * s @ s, rival - z, jac=lambda s: 100 * s, constraints=constraint, options={"ftol": 1e-14}
        )
        if found.success:
            best = min(best, np.linalg.norm(found.x))
    return label, best


@pytest.mark.parametrize("clusters", [1, 3])
def test_with_the_identity_as_backbone_it_flips_just_outside_of_the_exact_distance_and_not_inside(clusters):
    model, centers, images = identity_model(clusters)
    labels, distance = map(np.array, zip(*(distance_by_slsqp(image, centers) for image in images), strict=True))
    assert_array_equal(model.certify(images).class_ids, labels)
    attack = BisectorAttack(model.certifier(), batch_size=16)
    assert attack(images, labels, 1.01 * distance + 1e-4).is_flipped.all()
    assert not attack(images, labels, 0.99 * distance).is_flipped.any()


def test_it_stops_at_the_flip_however_large_the_ball():
    model, centers, images = identity_model(1, seed=1)
    labels, distance = map(np.array, zip(*(distance_by_slsqp(image, centers) for image in images), strict=True))
    result = BisectorAttack(model.certifier(), rivals=1, batch_size=30)(images, labels, 2.0)
    assert result.is_flipped.all()
    assert_allclose(result.distance, distance, rtol=0.01, atol=1e-4)
    assert (result.distance > distance - 1e-6).all()


def test_flips_of_a_trained_network_are_real_and_inside_the_ball_and_the_box(classifier, digits):
    _, (images, _) = digits
    certificate = classifier.certify(images[:40])
    eps = np.linspace(0.0, 2.0, 40)
    result = BisectorAttack(classifier.certifier(), steps=20, rivals=4, batch_size=32)(
        images[:40], certificate.class_ids, eps
    )
    difference = result.adversarial.astype("float64") - images[:40].astype("float64")
    distance = np.sqrt((difference**2).sum(axis=(1, 2, 3)))
    assert (distance <= eps).all()
    assert_allclose(result.distance, distance, rtol=1e-12)
    assert result.adversarial.dtype == np.float32
    assert result.adversarial.min() >= 0
    assert result.adversarial.max() <= 1
    after = classifier.predict(result.adversarial, verbose=0).argmax(1)
    assert_array_equal(after, result.class_ids)
    assert_array_equal(result.is_flipped, after != certificate.class_ids)
    assert result.is_flipped[-10:].all()
    assert not result.is_flipped[:2].any()


def test_the_name_and_the_attempts_count_no_more_rivals_than_there_are():
    model, _, images = identity_model(3)
    attack = BisectorAttack(model.certifier(), steps=2, rivals=100, batch_size=8)
    assert attack.name == "bisector l_2, 2 steps x 9 rivals"
    assert attack.norm == "l_2"
    seen = []
    attack(images, np.zeros(30, int), 1e-6, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == attack.attempts(30) == 270


@pytest.mark.parametrize("argument", ["steps", "rivals", "batch_size"])
def test_counts_below_one_are_refused(argument):
    model, _, _ = identity_model(1)
    with pytest.raises(ValueError, match="must be at least 1"):
        BisectorAttack(model.certifier(), **{argument: 0})
