import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from clustr_keras import ClusterHead, lipschitz
from clustr_keras.certificates import nearest_radius, union_radius
from clustr_keras.certification import Certifier


def certifier_with(bias=0.0, kernel_scale=1.0, method="union", seed=0, clusters=2, num_classes=4):
    """A certifier on one dense layer, with random centers about the embeddings."""
    rng = np.random.default_rng(seed)
    backbone = keras.Sequential([keras.Input((3, 3, 1)), keras.layers.Flatten(), keras.layers.Dense(6)])
    backbone.layers[-1].set_weights([kernel_scale * rng.normal(size=(9, 6)), np.full(6, bias)])
    head = ClusterHead(num_classes, clusters)
    head.build((None, 6))
    head.centers.assign(kernel_scale * rng.normal(size=(num_classes, clusters, 6)) + bias)
    bound = lipschitz.bound(backbone)
    head.set_lipschitz(bound.value)
    return Certifier(backbone, head, bound, method)


def images(count=200, seed=1):
    return np.random.default_rng(seed).uniform(size=(count, 3, 3, 1)).astype("float32")


def answers(certifier, x):
    return certifier.predict(x, verbose=0)


@pytest.mark.parametrize(("method", "radius"), [("nearest", nearest_radius), ("union", union_radius)])
def test_the_radius_is_that_of_the_exact_embedding(method, radius):
    certifier = certifier_with(method=method)
    x = images()
    kernel, bias = (w.astype("float64") for w in certifier.backbone.get_weights())
    exact = np.asarray(
        radius(x.reshape(-1, 9) @ kernel + bias, np.asarray(certifier.head.centers, "float64"), certifier.bound.value)
    )
    outputs = answers(certifier, x)
    assert_allclose(outputs["radius"], exact, atol=1e-5)
    assert (outputs["certified_radius"] <= exact).all()
    assert_allclose(outputs["certified_radius"], exact, atol=1e-3)


def test_the_slack_grows_with_what_float32_loses():
    # A bias of 1000 costs the embedding its last three digits.
    near, far = answers(certifier_with(), images()), answers(certifier_with(bias=1000.0), images())
    lost = near["radius"] - near["certified_radius"]
    is_certified = far["certified_radius"] > 0
    assert is_certified.any()
    assert (far["radius"] - far["certified_radius"])[is_certified].min() > 10 * lost.max()


@pytest.mark.parametrize("bias", [0.0, 300.0])
def test_no_float32_image_inside_the_radius_has_another_class(bias):
    certifier = certifier_with(bias=bias, seed=3)
    x = images(40)
    outputs = answers(certifier, x)
    radius = outputs["certified_radius"].astype("float64")
    assert (radius > 0).mean() > 0.5
    kernel = certifier.backbone.get_weights()[0].astype("float64")
    centers = np.asarray(certifier.head.centers, "float64")
    flat = centers.reshape(-1, 6)
    # The shortest way out: pull the step from the nearest center towards each rival back through the linear backbone.
    z = x.reshape(-1, 9).astype("float64") @ kernel + certifier.backbone.get_weights()[1]
    nearest = flat[((z[:, None] - flat) ** 2).sum(-1).argmin(-1)]
    for rival in flat:
        directions = (rival - nearest) @ kernel.T
        norms = np.linalg.norm(directions, axis=-1, keepdims=True)
        directions = np.divide(directions, norms, out=np.zeros_like(directions), where=norms > 0)
        moved = (x.reshape(-1, 9) + 0.999999 * radius[:, None] * directions).astype("float32")
        inside = np.linalg.norm(moved.astype("float64") - x.reshape(-1, 9), axis=-1) < radius
        classes = answers(certifier, moved.reshape(-1, 3, 3, 1))["class_ids"]
        assert_array_equal(classes[inside], outputs["class_ids"][inside])


def test_rounding_that_eats_the_margin_leaves_nothing_certified():
    outputs = answers(certifier_with(bias=1e7), images())
    assert_array_equal(outputs["certified_radius"], 0.0)
    assert np.isfinite(outputs["radius"]).all()


def test_coincident_centers_of_two_classes_certify_nothing():
    certifier = certifier_with(clusters=1, num_classes=2)
    certifier.head.centers.assign(np.ones((2, 1, 6)))
    outputs = answers(certifier, images())
    assert_array_equal(outputs["radius"], 0.0)
    assert_array_equal(outputs["certified_radius"], 0.0)


def test_the_runner_up_is_the_second_largest_logit():
    outputs = answers(certifier_with(), images())
    assert_array_equal(outputs["runner_up_class_ids"], np.argsort(-outputs["logits"], axis=-1)[:, 1])


def test_the_nearest_cluster_counts_through_the_classes():
    certifier = certifier_with(clusters=3)
    outputs = answers(certifier, images())
    flat = np.asarray(certifier.head.centers, "float64").reshape(-1, 6)
    squared = ((outputs["embeddings"][:, None] - flat) ** 2).sum(-1)
    assert_array_equal(outputs["nearest_cluster"], squared.argmin(-1))
    assert_array_equal(outputs["nearest_cluster"] // 3, outputs["class_ids"])


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method must be one of"):
        certifier_with(method="guess")
