import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from support.examples import examples

from clustr_keras import center_geometry, certificates, deployed_head
from clustr_keras.deployed_head import DeployedHead

RADII = {
    "nearest": certificates.nearest_radius,
    "union": certificates.union_radius,
    "exact": certificates.exact_radius,
}
pytestmark = pytest.mark.usefixtures("wide")


@st.composite
def clouds(draw):
    """Embeddings and centers, some of them far from the origin, some coincident."""
    classes, clusters, dim = draw(st.integers(2, 6)), draw(st.integers(1, 5)), draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shift = draw(st.sampled_from([0.0, 0.0, 50.0]))
    centers = rng.normal(size=(classes, clusters, dim)) + shift
    if draw(st.booleans()):
        centers[-1, -1] = centers[0, 0]
    return (rng.normal(size=(5, dim)) + shift).astype("float32"), centers.astype("float32")


@given(clouds(), st.sampled_from(sorted(RADII)))
@examples(80)
def test_classes_logits_and_margins_are_those_of_the_pure_functions(cloud, method):
    z, centers = cloud
    wide = z.astype("float64"), centers.astype("float64")
    head = DeployedHead(centers, method)
    scores = head.scores(z)
    logits = np.asarray(head.logits(scores))
    assert_allclose(logits, certificates.distance_logits(*wide), atol=1e-10)
    class_ids = np.asarray(head.nearest_cluster(scores)) // centers.shape[1]
    assert_array_equal(logits.argmax(-1), class_ids)
    margin, with_slack = head.margins(scores, class_ids, np.zeros(len(z)))
    expected = np.asarray(RADII[method](*wide))
    assert_allclose(np.maximum(margin, 0.0), expected, atol=1e-5 * (1 + expected.max()))
    assert (np.asarray(with_slack) <= np.asarray(margin) + 1e-12).all()


@given(clouds(), st.floats(1e-3, 0.5))
@examples(40)
def test_the_margin_with_slack_is_the_distance_to_cells_with_a_band_about_them(cloud, slack):
    z, centers = (array.astype("float64") for array in cloud)
    head = DeployedHead(centers, "exact")
    scores = np.asarray(head.scores(z))
    class_ids = scores.argmax(-1) // centers.shape[1]
    _, margin = head.margins(scores, class_ids, np.full(len(z), slack))
    points = np.random.default_rng(0).normal(size=(2000, z.shape[1])) + centers.mean((0, 1))
    of_points = np.asarray(head.scores(points)).reshape(len(points), *centers.shape[:2])
    for example, class_id, bound in zip(z, class_ids, np.asarray(margin), strict=True):
        rivals = np.delete(of_points, class_id, axis=1).reshape(len(points), -1).max(-1)
        is_close = of_points[:, class_id].max(-1) - rivals <= slack
        distances = np.linalg.norm(points[is_close] - example, axis=-1)
        assert bound <= distances.min(initial=np.inf) + 1e-9


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize(("clusters", "method"), itertools.product([1, 3, 5], ["union", "exact"]))
def test_without_tables_and_in_chunks_it_gives_the_same(clusters, method, monkeypatch):
    rng = np.random.default_rng(0)
    centers, z = rng.normal(size=(7, clusters, 4)), rng.normal(size=(30, 4))

    def answers():
        head = DeployedHead(centers, method)
        scores = head.scores(z)
        class_ids = head.nearest_cluster(scores) // clusters
        return [np.asarray(a) for a in (head.logits(scores), *head.margins(scores, class_ids, np.full(30, 1e-6)))]

    expected = answers()
    monkeypatch.setattr(center_geometry, "_TABLE_FLOATS", 0)
    monkeypatch.setattr(deployed_head, "_PAIRS_AT_A_TIME", 4 * 7 * clusters**2)
    for given_now, before in zip(answers(), expected, strict=True):
        assert_allclose(given_now, before, atol=1e-9)


@given(clouds())
@examples(40)
def test_scores_are_off_by_less_than_their_bound(cloud):
    z, centers = cloud
    head = DeployedHead(centers)
    # The bound is for any arithmetic: in float32 it is large enough to be seen.
    wider = np.longdouble
    mean, own = np.asarray(head.geometry.mean, wider), np.asarray(head.geometry.centers, wider)
    exact = (z.astype(wider) - mean) @ own.T - 0.5 * (own**2).sum(-1)
    error = np.abs(np.asarray(head.scores(z), wider) - exact).max(-1)
    assert (error <= np.asarray(head.error(head.size(z)))).all()


@pytest.mark.parametrize("clusters", [1, 3])
def test_no_margin_is_larger_than_the_distance_to_the_nearest_rival(clusters):
    rng = np.random.default_rng(0)
    centers, z = rng.normal(size=(5, clusters, 4)), rng.normal(size=(200, 4))
    head = DeployedHead(centers, "exact")
    scores = head.scores(z)
    class_ids = head.nearest_cluster(scores) // clusters
    margin, _ = head.margins(scores, class_ids, np.zeros(200))
    assert (np.asarray(margin) <= np.asarray(head.distance_to_rivals(head.size(z), scores, class_ids)) + 1e-9).all()
