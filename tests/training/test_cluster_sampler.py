import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from clustr_keras.training.cluster_sampler import ClusterSampler, cluster_losses

CLASSES, PER_CLASS, EXAMPLES = 4, 3, 60


def sampler_of(seed=0, clusters_per_batch=5, examples_per_cluster=4, lag=2, assignments=None, centers=None):
    """A sampler of 60 examples in 4 classes of 3 clusters, in an epoch that has begun."""
    rng = np.random.default_rng(seed)
    if assignments is None:
        assignments = rng.integers(0, CLASSES * PER_CLASS, EXAMPLES)
    if centers is None:
        centers = rng.normal(size=(CLASSES, PER_CLASS, 2)).astype("float32")
    labels = assignments // PER_CLASS
    sampler = ClusterSampler(labels, CLASSES, PER_CLASS, clusters_per_batch, examples_per_cluster, lag, seed)
    sampler.assign(assignments, centers)
    sampler.begin_epoch(0)
    return sampler


def clusters_in_order(clusters):
    first = np.sort(np.unique(clusters, return_index=True)[1])
    return clusters[first]


def losses_of_cluster(sampler, step, cluster):
    """Loss 1 for the rows of one cluster in a batch, 0 for the others."""
    _, clusters = sampler.draw(step)
    losses = np.zeros(sampler.clusters_per_batch * sampler.examples_per_cluster, "float32")
    losses[: len(clusters)] = clusters == cluster
    return losses


@given(seed=st.integers(0, 10_000), m=st.integers(2, 10), d=st.integers(2, 9))
def test_a_batch_is_a_seed_cluster_and_its_nearest_rivals(seed, m, d):
    sampler = sampler_of(seed, m, d)
    rows, clusters = sampler.draw(0)
    sizes = np.bincount(sampler.assignments, minlength=CLASSES * PER_CLASS)
    drawn = clusters_in_order(clusters)
    own = drawn[0]

    assert len(set(rows)) == len(rows)
    assert_array_equal(sampler.assignments[rows], clusters)
    assert_array_equal(clusters, np.repeat(drawn, np.minimum(sizes[drawn], d)))  # together, and as many as there are
    centers = sampler.centers.reshape(-1, 2).astype("float64")
    distances = {
        rival: np.hypot(*(centers[rival] - centers[own]))
        for rival in range(CLASSES * PER_CLASS)
        if rival // PER_CLASS != own // PER_CLASS and sizes[rival] > 0
    }
    assert list(drawn[1:]) == sorted(distances, key=distances.get)[: m - 1]


@given(seed=st.integers(0, 10_000), share=st.floats(0, 1))
def test_the_loss_of_a_cluster_is_the_mean_of_the_losses_seen(seed, share):
    rng = np.random.default_rng(seed)
    losses, has_loss = rng.random(30).astype("float32"), rng.random(30) < share
    assignments = rng.integers(0, 6, 30)
    seen = [[losses[n] for n in range(30) if assignments[n] == k and has_loss[n]] for k in range(6)]
    visited = [np.mean(values) for values in seen if values]
    others = np.mean(visited) if visited else 0.0
    expected = [np.mean(values) if values else others for values in seen]
    assert_allclose(cluster_losses(losses, has_loss, assignments, 6), expected, rtol=1e-6)


def test_the_example_of_the_documentation():
    found = cluster_losses(np.array([1.0, 3.0, 0.0]), np.array([True, True, False]), np.array([0, 0, 1]), 3)
    assert_allclose(found, [2.0, 2.0, 2.0])


def seeds_drawn(sampler, epochs=3000):
    drawn = []
    for epoch in range(epochs):
        sampler.begin_epoch(epoch)
        drawn.append(sampler.draw(0)[1][0])
    return np.bincount(drawn, minlength=CLASSES * PER_CLASS) / epochs


def test_seed_clusters_are_drawn_in_proportion_to_their_loss():
    assignments = np.arange(EXAMPLES) % 11  # cluster 11 is empty
    sampler = sampler_of(assignments=assignments)
    losses = np.array([0.0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0])  # cluster 10 is not visited
    sampler.set_losses(losses[assignments].astype("float32"), assignments != 10)
    weights = losses.copy()
    weights[10] = losses[:10].mean()
    p = weights / weights.sum()
    assert np.all(np.abs(seeds_drawn(sampler) - p) <= 4 * np.sqrt(p * (1 - p) / 3000))


@pytest.mark.parametrize("is_visited", [False, True])
def test_without_a_positive_loss_every_cluster_that_has_examples_is_as_likely(is_visited):
    assignments = np.arange(EXAMPLES) % 11
    sampler = sampler_of(assignments=assignments)
    sampler.set_losses(np.zeros(EXAMPLES, "float32"), np.full(EXAMPLES, is_visited))
    frequencies = seeds_drawn(sampler)
    assert frequencies[11] == 0
    assert np.all(np.abs(frequencies[:11] - 1 / 11) <= 4 * np.sqrt(1 / 11 * 10 / 11 / 3000))


@pytest.mark.parametrize("lag", [0, 1, 2, 5])
def test_a_batch_depends_on_the_losses_up_to_the_lag_and_on_no_later_ones(lag):
    """All losses are 0 but those of step 3, of one cluster: the first batch that knows of them must start with it."""

    def draws(told):
        sampler = sampler_of(lag=lag, clusters_per_batch=10, examples_per_cluster=9)
        sampler.set_losses(np.zeros(EXAMPLES, "float32"), np.ones(EXAMPLES, bool))
        sampler.begin_epoch(0)
        found = []
        for step in range(12):
            assert sampler.can_draw(step)
            found.append(sampler.draw(step))
            losses = np.zeros(90, "float32")
            if step == 3 and told:
                losses = losses_of_cluster(sampler, step, found[3][1][-1])
            sampler.add_losses(losses)
        return found

    told, untold = draws(True), draws(False)
    for step in range(4 + lag):
        assert_array_equal(told[step][0], untold[step][0])
    assert told[4 + lag][1][0] == told[3][1][-1]


@given(
    seed=st.integers(0, 1000), lag=st.integers(0, 4), eagerness=st.lists(st.integers(0, 4), min_size=10, max_size=10)
)
def test_it_does_not_matter_how_far_ahead_batches_are_drawn(seed, lag, eagerness):
    def draws(ahead):
        sampler = sampler_of(seed, lag=lag)
        for step in range(10):
            sampler.draw(min(step + min(ahead[step], lag), 9))
            rows, _ = sampler.draw(step)
            losses = np.zeros(20, "float32")
            losses[: len(rows)] = np.abs(np.sin(rows + step))  # some function of the batch
            sampler.add_losses(losses)
        return [sampler.draw(step) for step in range(10)]

    for eager, lazy in zip(draws(eagerness), draws([0] * 10), strict=True):
        assert_array_equal(eager[0], lazy[0])
        assert_array_equal(eager[1], lazy[1])


def test_a_batch_cannot_be_drawn_before_its_losses_are_there():
    sampler = sampler_of(lag=1)
    assert [sampler.can_draw(step) for step in range(4)] == [True, True, False, False]
    sampler.draw(0)
    sampler.add_losses(np.zeros(20, "float32"))
    assert [sampler.can_draw(step) for step in range(4)] == [True, True, True, False]


def test_the_last_losses_of_an_epoch_count_in_the_next():
    sampler = sampler_of(lag=3)
    _, clusters = sampler.draw(0)
    sampler.add_losses(losses_of_cluster(sampler, 0, clusters[-1]))
    sampler.end_epoch()
    assert sampler.example_losses.sum() == np.sum(clusters == clusters[-1])
    assert sampler.has_loss.sum() == len(clusters)


@pytest.mark.parametrize("ahead", [0, 2])
def test_of_an_epoch_cut_short_all_losses_count_that_arrived(ahead):
    sampler = sampler_of(lag=2)
    rows, _ = sampler.draw(0)
    sampler.add_losses(np.full(20, 2.5, "float32"))
    sampler.draw(ahead)
    known = sampler.losses_so_far()
    sampler.begin_epoch(1)
    assert_array_equal(np.flatnonzero(sampler.has_loss), np.sort(rows))
    assert_array_equal(sampler.example_losses[rows], 2.5)
    assert_array_equal(known, (sampler.example_losses, sampler.has_loss))


def test_losses_that_are_not_finite_are_not_recorded():
    sampler = sampler_of()
    rows, _ = sampler.draw(0)
    losses = np.ones(20, "float32")
    losses[0], losses[1] = np.nan, np.inf
    sampler.add_losses(losses)
    sampler.end_epoch()
    assert_array_equal(np.flatnonzero(sampler.has_loss), np.sort(rows[2:]))
    assert np.isfinite(sampler.example_losses).all()


def test_the_last_loss_of_an_example_counts():
    sampler = sampler_of(lag=0)
    for step in range(6):
        sampler.draw(step)
        sampler.add_losses(np.full(20, step, "float32"))
    draws = [sampler.draw(step)[0] for step in range(6)]
    sampler.end_epoch()
    for example in range(EXAMPLES):
        steps = [step for step in range(6) if example in draws[step]]
        assert sampler.has_loss[example] == bool(steps)
        assert sampler.example_losses[example] == (steps[-1] if steps else 0)
