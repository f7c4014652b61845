import numpy as np
import pytest
import sklearn.cluster
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from clustr_keras.training.clusters import k_means_by_class


@pytest.fixture
def blobs():
    """400 points in 3 classes around 4 centers each."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400)
    means = rng.normal(scale=4, size=(3, 4, 5))
    return (means[labels, rng.integers(0, 4, 400)] + rng.normal(size=(400, 5))).astype("float32"), labels


def inertia(embeddings, labels, centers):
    """Sum of the squared distances to the nearest own-class center, in float64."""
    return sum(
        min(np.sum((z.astype("float64") - center) ** 2) for center in centers[label])
        for z, label in zip(embeddings, labels, strict=True)
    )


def test_the_example_of_the_documentation():
    found = k_means_by_class(np.array([[0.0], [1.0], [5.0], [7.0]]), np.array([0, 0, 1, 1]), 2, 1)
    assert_allclose(found.centers.ravel(), [0.5, 6.0])
    assert_allclose(found.variance, 2.5 / 3)


def test_the_centers_are_as_good_as_the_best_of_ten_runs_of_scikit_learn(blobs):
    embeddings, labels = blobs
    found = k_means_by_class(embeddings, labels, 3, 4, n_init=10, max_iter=40)
    best = sum(
        sklearn.cluster.KMeans(4, n_init=10, random_state=1).fit(embeddings[labels == c]).inertia_ for c in range(3)
    )
    assert inertia(embeddings, labels, found.centers) <= 1.01 * best


def test_one_start_beats_centers_at_random_examples(blobs):
    embeddings, labels = blobs
    rng = np.random.default_rng(1)
    random = np.stack([embeddings[rng.choice(np.flatnonzero(labels == c), 4, replace=False)] for c in range(3)])
    found = k_means_by_class(embeddings, labels, 3, 4)
    assert inertia(embeddings, labels, found.centers) < 0.8 * inertia(embeddings, labels, random)


def test_examples_belong_to_the_nearest_center_of_their_class_and_centers_are_means(blobs):
    embeddings, labels = blobs
    found = k_means_by_class(embeddings, labels, 3, 4, max_iter=200)
    distances = ((embeddings[:, None, None].astype("float64") - found.centers) ** 2).sum(-1)
    assert_array_equal(found.assignments, 4 * labels + distances[np.arange(400), labels].argmin(-1))
    for cluster in range(12):
        members = embeddings[found.assignments == cluster]
        assert_allclose(found.centers.reshape(12, 5)[cluster], members.mean(axis=0), atol=1e-5)


def test_the_variance_is_that_around_the_nearest_own_centers(blobs):
    embeddings, labels = blobs
    found = k_means_by_class(embeddings, labels, 3, 2, max_iter=1)  # stopped early: the centers are no means yet
    assert_allclose(found.variance, inertia(embeddings, labels, found.centers) / 399, rtol=1e-6)


def test_many_examples_are_clustered_in_mini_batches(blobs):
    embeddings, labels = blobs
    full = k_means_by_class(embeddings, labels, 3, 4, n_init=5)
    mini = k_means_by_class(embeddings, labels, 3, 4, n_init=5, minibatch_above=50)
    assert not np.array_equal(mini.centers, full.centers)
    assert inertia(embeddings, labels, mini.centers) < 1.2 * inertia(embeddings, labels, full.centers)


@given(
    seed=st.integers(0, 10_000),
    distinct=st.integers(1, 6),
    clusters=st.integers(1, 5),
    extra=st.integers(0, 8),
    minibatch_above=st.sampled_from([3, 100]),
)
def test_no_cluster_is_empty_however_many_embeddings_are_equal(seed, distinct, clusters, extra, minibatch_above):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(3), clusters + extra))
    embeddings = rng.normal(size=(distinct, 2))[rng.integers(0, distinct, len(labels))].astype("float32")
    found = k_means_by_class(embeddings, labels, 3, clusters, minibatch_above=minibatch_above)
    assert np.all(np.bincount(found.assignments, minlength=3 * clusters) > 0)
    assert_array_equal(found.assignments // clusters, labels)
    assert found.variance > 0
    assert np.isfinite(found.centers).all()


def test_an_empty_cluster_takes_the_example_farthest_from_its_center(monkeypatch):
    class OneCluster:
        """K-means that puts all into its first cluster."""

        def __init__(self, clusters, **_):
            self.clusters = clusters

        def fit(self, points):
            self.labels_ = np.zeros(len(points), "int32")
            self.cluster_centers_ = np.repeat(points.mean(axis=0, keepdims=True), self.clusters, axis=0)

    monkeypatch.setattr(sklearn.cluster, "KMeans", OneCluster)
    points = np.array([[0.0], [1.0], [2.0], [9.0], [4.0], [4.0]], "float32")
    found = k_means_by_class(points, np.array([0, 0, 0, 0, 1, 1]), 2, 2)
    assert_array_equal(found.assignments[:4], [0, 0, 0, 1])
    assert_allclose(found.centers[0], [[1.0], [9.0]])
    assert sorted(found.assignments[4:]) == [2, 3]
    assert_allclose(found.variance, 2 / 5)


def test_equal_embeddings_leave_a_variance_to_divide_by():
    found = k_means_by_class(np.ones((8, 3), "float32"), np.repeat([0, 1], 4), 2, 2)
    assert found.variance == 1e-12


def test_the_seed_decides(blobs):
    embeddings, labels = blobs
    runs = [k_means_by_class(embeddings, labels, 3, 4, max_iter=1, seed=seed) for seed in ([7, 0], [7, 0], [7, 1], 7)]
    assert_array_equal(runs[0].centers, runs[1].centers)
    assert_array_equal(runs[0].assignments, runs[1].assignments)
    assert not np.array_equal(runs[0].centers, runs[2].centers)


def test_a_class_with_too_few_examples_is_named():
    with pytest.raises(ValueError, match="class 1 has 2 examples, fewer than clusters_per_class=3"):
        k_means_by_class(np.zeros((9, 2)), np.array([0] * 4 + [1] * 2 + [2] * 3), 3, 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_refused(blobs, bad):
    embeddings, labels = blobs
    embeddings = embeddings.copy()
    embeddings[:40, 2] = bad
    with pytest.raises(ValueError, match="10% of the embeddings are not finite: training diverged"):
        k_means_by_class(embeddings, labels, 3, 4)
