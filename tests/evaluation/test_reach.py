import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import nnls

from clustr_keras import ClustrClassifier
from clustr_keras.attacks import ProjectedGradientDescent
from clustr_keras.evaluation import ReachResult, reach

SHAPE = (4, 4, 1)
DIM = 16


def identity_model(clusters, classes=4, examples=120, seed=0):
    """A classifier whose embeddings are its pixels; centers and images lie well inside of [0, 1]."""
    generator = np.random.default_rng(seed)
    model = ClustrClassifier(keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten()]), classes, clusters)
    # Images lie among the centers of their class, so that feet fall on corners of the cells, not on single faces.
    means = generator.uniform(0.35, 0.65, (classes, 1, DIM))
    centers = (means + generator.normal(0, 0.08, (classes, clusters, DIM))).clip(0.1, 0.9).astype("float32")
    model.head.centers.assign(centers)
    images = means[generator.integers(0, classes, examples), 0] + generator.normal(0, 0.05, (examples, DIM))
    images = images.clip(0.1, 0.9).astype("float32").reshape(-1, *SHAPE)
    return model, centers.astype("float64"), images


def to_cell(z, own, rival):
    """The way from `z` to the nearest point that is nearer to `rival` than to any of `own`: Lawson and Hanson's LDP."""
    difference = own - rival
    heights = ((z - rival) ** 2).sum() - ((z - own) ** 2).sum(axis=1)
    heights /= 2 * np.linalg.norm(difference, axis=1)
    system = np.vstack([-(difference / np.linalg.norm(difference, axis=1, keepdims=True)).T, heights])
    target = np.append(np.zeros(len(z)), 1.0)
    residual = system @ nnls(system, target)[0] - target
    return -residual[:-1] / residual[-1], heights


def exact_by_nnls(image, centers):
    """Distance to the other classes' cells, whether a corner decides, and the foot."""
    z = image.reshape(-1).astype("float64")
    label = ((z - centers) ** 2).sum(-1).min(1).argmin()
    ways = [to_cell(z, centers[label], rival) for rival in np.delete(centers, label, axis=0).reshape(-1, DIM)]
    way, heights = min(ways, key=lambda way: np.linalg.norm(way[0]))
    distance = np.linalg.norm(way)
    return distance, distance > 1.001 * heights.max(), z + way


@pytest.mark.parametrize("clusters", [1, 3])
def test_with_the_identity_as_backbone_the_smallest_flips_reach_the_exact_radius(clusters):
    model, centers, images = identity_model(clusters)
    distance, is_corner, feet = map(np.array, zip(*(exact_by_nnls(image, centers) for image in images), strict=True))
    assert feet.min() > 0  # inside of the pixel box
    assert feet.max() < 1
    assert is_corner.mean() > 0.5 if clusters > 1 else not is_corner.any()
    result = reach(model, images)
    ratio = result.distance / distance
    assert (ratio >= 1 - 1e-6).all()
    assert np.mean(ratio <= 1.02) >= 0.99
    difference = result.adversarial.astype("float64") - images.astype("float64")
    assert_allclose(result.distance, np.sqrt((difference**2).sum(axis=(1, 2, 3))), rtol=1e-12)
    assert_allclose(result.radius, distance, rtol=1e-3, atol=1e-6)
    assert result.share_within(1.02) >= 0.99
    assert (result.adversarial >= 0).all()
    assert (result.adversarial <= 1).all()


@pytest.fixture(scope="module")
def reached(classifier, digits):
    _, (images, _) = digits
    seen = []
    return images[:32], reach(classifier, images[:32], batch_size=32, subset=8, progress=seen.append), seen


def test_flips_of_a_trained_network_are_real_and_none_is_inside_its_radius(classifier, reached):
    images, result, _ = reached
    assert np.isfinite(result.distance).all()
    before = classifier.predict(images, verbose=0).argmax(1)
    assert (classifier.predict(result.adversarial, verbose=0).argmax(1) != before).all()
    difference = result.adversarial.astype("float64") - images.astype("float64")
    assert_allclose(result.distance, np.sqrt((difference**2).sum(axis=(1, 2, 3))), rtol=1e-12)
    assert_array_equal(result.radius, classifier.certify(images).radius.astype("float64"))
    assert (result.distance >= result.radius).all()
    assert np.median(result.ratio) < 2


def test_all_attacks_together_are_no_weaker_than_one(classifier, reached):
    images, result, _ = reached
    alone = ProjectedGradientDescent(classifier.certifier().deployed_logits, "l_2", restarts=1, batch_size=32)
    one = reach(classifier, images, attacks=[alone], walk_steps=0)
    assert one.attacks == (alone.name,)
    assert len(result.attacks) == 3
    assert np.mean(result.distance <= one.distance * 1.0005) > 0.9
    assert np.mean(result.distance) < np.mean(one.distance)


def test_progress_is_a_share_that_rises_to_one(reached):
    _, _, seen = reached
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.25, 1.0)


def test_a_data_set_is_taken_as_its_images_are(classifier, reached):
    images, _, _ = reached
    attack = ProjectedGradientDescent(classifier.certifier().deployed_logits, "l_2", steps=5, restarts=1, batch_size=32)
    dataset = tf.data.Dataset.from_tensor_slices((images, np.zeros(32, int))).batch(10)
    by_images, by_dataset = (reach(classifier, data, [attack], walk_steps=1) for data in (images, dataset))
    assert_array_equal(by_images.distance, by_dataset.distance)


def test_a_radius_made_too_large_shows_as_ratios_below_one(classifier, reached, monkeypatch):
    images, _, _ = reached
    certify = classifier.certify

    def inflated(*args, **kwargs):
        certificate = certify(*args, **kwargs)
        return dataclasses.replace(certificate, radius=2 * certificate.radius)

    monkeypatch.setattr(classifier, "certify", inflated)
    attack = ProjectedGradientDescent(classifier.certifier().deployed_logits, "l_2", restarts=1, batch_size=32)
    assert reach(classifier, images, [attack]).as_dict()["ratio_below_1"] > 16


def result_of(distance, radius):
    images = np.zeros((len(distance), 1, 1, 1), "float32")
    return ReachResult(("a", "b"), np.array(distance), np.array(radius), images)


def test_the_figures_are_those_of_the_examples_with_a_radius():
    result = result_of([0.5, 0.505, 0.55, np.inf, 0.1, 0.49], [0.5, 0.5, 0.5, 0.5, 0.0, 0.5])
    assert_allclose(result.ratio, [1.0, 1.01, 1.1, np.inf, np.nan, 0.98])
    assert result.share_within() == pytest.approx(2 / 5)
    assert result.share_within(1.2) == pytest.approx(3 / 5)
    figures = result.as_dict()
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert (figures["examples"], figures["with_radius"], figures["flips_found"]) == (6, 5, 5)
    assert figures["attacks"] == ["a", "b"]
    assert figures["ratio_below_1"] == 1
    assert figures["share_within_1.02"] == pytest.approx(0.4)
    assert figures["ratio_quantiles"] == {"0.5": pytest.approx(1.01), "0.9": None, "0.99": None, "1": None}


def test_without_any_radius_there_are_no_figures_and_no_warnings():
    result = result_of([0.5, np.inf], [0.0, 0.0])
    assert np.isnan(result.ratio).all()
    figures = result.as_dict()
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert figures["share_within_1.02"] is None
    assert set(figures["ratio_quantiles"].values()) == {None}


def test_an_attack_in_l_inf_is_refused(classifier, reached):
    with pytest.raises(ValueError, match="certified radii are l_2"):
        reach(classifier, reached[0], [ProjectedGradientDescent(classifier, "l_inf")])
