import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_softmax, rel_entr, softmax
from support.gradients import value_and_gradients

from clustr_keras.losses import cross_entropy_between, embedding_mse, kl_divergence

GOLDEN = pathlib.Path(__file__).parents[3] / "shared" / "golden" / "reference_magnet.npz"


@pytest.fixture
def pair():
    """A distribution, with some zeros in it, and scores."""
    rng = np.random.default_rng(0)
    target = rng.dirichlet(np.ones(5), 8) * (rng.uniform(size=(8, 5)) > 0.3)
    return (target / target.sum(-1, keepdims=True)).astype("float32"), rng.normal(size=(8, 5)).astype("float32")


def gradients(function, *arguments):
    return value_and_gradients(function, *arguments)[1]


@pytest.mark.skipif(not GOLDEN.exists(), reason=f"the paper's numbers are not here: {GOLDEN.name}")
@pytest.mark.parametrize("number", range(4))
def test_the_cross_entropy_matches_the_published_code(number):
    golden = np.load(GOLDEN)
    target, scores = golden[f"posterior{number}_xent_target"], golden[f"posterior{number}_xent_scores"]
    ours = np.asarray(cross_entropy_between(target, scores))
    assert ours.shape == target.shape[:1]
    assert_allclose(ours.mean(), golden[f"posterior{number}_xent"], rtol=1e-5)


def test_a_distribution_differs_from_scores_by_their_entropies(pair):
    target, scores = pair
    wide = target.astype("float64")
    assert_allclose(cross_entropy_between(target, scores), -(wide * log_softmax(scores, -1)).sum(-1), rtol=1e-5)
    assert_allclose(kl_divergence(target, scores), rel_entr(wide, softmax(scores, -1)).sum(-1), rtol=1e-5)


def test_gradients_reach_target_and_scores(pair):
    target, scores = pair
    of_target, of_scores = gradients(cross_entropy_between, target, scores)
    assert_allclose(of_target, -log_softmax(scores, -1), rtol=1e-5)
    assert_allclose(of_scores, softmax(scores, -1) - target, atol=1e-6)
    of_target, of_scores = gradients(kl_divergence, target, scores)
    assert_allclose(of_scores, softmax(scores, -1) - target, atol=1e-6)
    expected = np.log(np.where(target > 0, target, 1)) + 1 - log_softmax(scores, -1)
    assert_allclose(of_target, np.where(target > 0, expected, 0.0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("function", [cross_entropy_between, kl_divergence])
@given(size=st.floats(0, 1e30), winner=st.integers(0, 2))
def test_it_is_finite_for_all_finite_scores(function, size, winner):
    target = np.eye(3, dtype="float32")[[winner]]
    scores = np.float32([[size, -size, 0.0]])
    assert np.isfinite(function(target, scores)).all()
    assert all(np.isfinite(gradient).all() for gradient in gradients(function, target, scores))


@pytest.mark.parametrize("function", [cross_entropy_between, kl_divergence])
def test_a_class_without_a_vote_and_without_a_share_counts_nothing(function):
    target, scores = np.float32([[0.25, 0.75, 0.0]]), np.float32([[1.0, 2.0, -np.inf]])
    assert_allclose(function(target, scores), function(target[:, :2], scores[:, :2]), rtol=1e-6)
    assert all(np.isfinite(gradient).all() for gradient in gradients(function, target, scores))


def test_the_divergence_is_zero_where_the_two_agree(pair):
    _, scores = pair
    assert_allclose(kl_divergence(softmax(scores, -1), scores + 7.0), 0.0, atol=1e-6)


def test_the_mean_over_the_batch_is_the_mean_over_all_entries():
    rng = np.random.default_rng(0)
    z, perturbed = rng.normal(size=(2, 6, 9)).astype("float32")
    each = np.asarray(embedding_mse(z, perturbed))
    assert_allclose(each[0], np.mean((z[0] - perturbed[0]) ** 2), rtol=1e-5)
    assert_allclose(each.mean(), np.mean((z - perturbed) ** 2), rtol=1e-5)
    assert_array_equal(embedding_mse(z, z), 0.0)


def test_squares_of_half_precision_embeddings_do_not_overflow():
    assert_array_equal(embedding_mse(np.full((2, 3), 1000.0, "float16"), np.zeros((2, 3), "float16")), 1e6)
