import itertools

import keras
import numpy as np
import pytest
from hypothesis import given
from numpy.testing import assert_allclose, assert_array_equal
from support.clouds import class_of_nearest_center, clouds, hyperplane_distance
from support.examples import examples
from support.gradients import gradient

from clustr_keras.certificates import chunks, distance_logits, squared_distances, union_radius

pytestmark = pytest.mark.usefixtures("wide")


def logits_by_definition(z, centers):
    num_classes, clusters, _ = centers.shape
    cells = list(itertools.product(range(num_classes), range(clusters)))
    return [
        min(
            max(hyperplane_distance(z, centers[c, k], centers[rival]) for k in range(clusters))
            for rival in cells
            if rival[0] != c
        )
        for c in range(num_classes)
    ]


@given(clouds())
@examples(60)
def test_logits_are_those_of_the_definition(cloud):
    z, centers = cloud
    expected = [logits_by_definition(point, centers) for point in z]
    assert_allclose(distance_logits(z, centers), expected, rtol=1e-9, atol=1e-12)


@given(clouds())
@examples(60)
def test_the_chunked_search_finds_the_same_pairs(cloud):
    z, centers = cloud
    whole = np.asarray(distance_logits(z, centers))
    limit, chunks.CHUNK_FLOATS = chunks.CHUNK_FLOATS, 2 * centers.size * centers.shape[1]
    try:
        chunked = np.asarray(distance_logits(z, centers))
        radius = np.asarray(union_radius(z, centers))
    finally:
        chunks.CHUNK_FLOATS = limit
    assert_allclose(chunked, whole, rtol=1e-9, atol=1e-12)
    assert_allclose(radius, whole.max(axis=-1), rtol=1e-9, atol=1e-12)


@given(clouds())
@examples(60)
def test_the_winner_is_the_nearest_class_and_alone_above_zero(cloud):
    z, centers = cloud
    logits = np.asarray(distance_logits(z, centers))
    assert_array_equal(logits.argmax(-1), class_of_nearest_center(z, centers))
    assert (np.sort(logits, axis=-1)[:, :-1] <= 1e-12).all()


def test_coincident_centers_of_two_classes_give_radius_zero():
    centers = np.array([[[1.0, 0.0]], [[1.0, 0.0]], [[-1.0, 0.0]]])
    logits = np.asarray(distance_logits(np.array([[2.0, 0.5]]), centers))
    assert_allclose(logits, [[0.0, 0.0, -2.0]])
    assert_allclose(union_radius(np.array([[2.0, 0.5]]), centers), [0.0])


def test_float32_does_not_cancel_far_from_the_origin():
    rng = np.random.default_rng(0)
    offset = 1e4 * np.ones(16)
    centers = (rng.normal(size=(5, 2, 16)) + offset).astype("float32")
    z = (rng.normal(size=(32, 16)) + offset).astype("float32")
    exact = np.asarray(distance_logits(z.astype("float64"), centers.astype("float64")))
    # Numbers near 1e4 are 1e-3 apart in float32, but the inputs here are exact, so only differences are rounded.
    assert_allclose(distance_logits(z, centers), exact, atol=2e-3)
    assert_allclose(
        squared_distances(z, centers), ((z[:, None, None] - centers.astype("float64")) ** 2).sum(-1), rtol=1e-3
    )


def test_float32_keeps_two_close_centers_apart():
    centers = np.array([[[1.0, 1.0]], [[1.0, 1.0 + 1e-5]], [[-3.0, 2.0]]], "float32")
    z = np.array([[5.0, 1.5]], "float32")
    exact = np.asarray(distance_logits(z.astype("float64"), centers.astype("float64")))
    assert_allclose(distance_logits(z, centers), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("limit", [2**22, 64])
def test_gradients_agree_with_finite_differences(limit, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_FLOATS", limit)
    rng = np.random.default_rng(1)
    z, centers = rng.normal(size=(3, 4)), rng.normal(size=(4, 2, 4))
    weights = rng.normal(size=(3, 4))

    def total(centers):
        return keras.ops.sum(distance_logits(z, centers) * weights)

    of_total = gradient(total, centers)
    for index in [(0, 0, 0), (1, 1, 2), (3, 0, 3)]:
        step = np.zeros_like(centers)
        step[index] = 1e-6
        slope = (float(total(centers + step)) - float(total(centers - step))) / 2e-6
        assert_allclose(of_total[index], slope, rtol=1e-5, atol=1e-7)


def test_a_thousand_classes_fit():
    rng = np.random.default_rng(2)
    z, centers = rng.normal(size=(8, 16)).astype("float32"), rng.normal(size=(1000, 1, 16)).astype("float32")
    logits = np.asarray(distance_logits(z, centers))
    assert_array_equal(logits.argmax(-1), class_of_nearest_center(z, centers))
    gaps = [[hyperplane_distance(z[0], centers[c, 0], centers[j, 0]) for j in range(1000) if j != c] for c in (0, 500)]
    assert_allclose(logits[0, [0, 500]], np.min(gaps, axis=-1), atol=1e-4)
