import pathlib

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from support.gradients import gradient

from clustr_keras import CertifiedAccuracy, CertifiedMarginLoss, CertifiedRadius, ClusterHead
from clustr_keras.backbones import lipschitz_mlp

GOLDEN = pathlib.Path(__file__).parents[2] / "shared" / "golden" / "reference_magnet.npz"


def head_with(centers, lipschitz=1.0, **kwargs):
    head = ClusterHead(*np.shape(centers)[:2], **kwargs)
    head.build((None, np.shape(centers)[-1]))
    head.centers.assign(centers)
    head.set_lipschitz(lipschitz)
    return head


@pytest.fixture
def cloud():
    rng = np.random.default_rng(0)
    return rng.normal(size=(50, 6)).astype("float32"), rng.normal(size=(4, 3, 6)).astype("float32")


def test_the_argmax_is_the_class_of_the_nearest_center(cloud):
    z, centers = cloud
    distances = ((z[:, None, None].astype("float64") - centers) ** 2).sum(-1)
    head = head_with(centers)
    assert_array_equal(np.argmax(head(z), axis=-1), distances.min(-1).argmin(-1))
    assert_allclose(head.squared_distances(z), distances, rtol=1e-4)
    class_ids, cluster_ids = head.nearest_cluster(z)
    assert_array_equal(np.asarray(class_ids) * 3 + np.asarray(cluster_ids), distances.reshape(50, 12).argmin(-1))


def test_logits_are_in_input_units(cloud):
    z, centers = cloud
    assert_allclose(head_with(centers, lipschitz=4.0)(z), np.asarray(head_with(centers)(z)) / 4.0, rtol=1e-6)


def test_an_unknown_bound_leaves_argmax_and_softmax_and_makes_every_radius_zero(cloud):
    z, centers = cloud
    known, unknown = head_with(centers), head_with(centers, lipschitz=float("inf"))
    assert not unknown.is_lipschitz_known
    logits = np.asarray(unknown(z))
    assert_array_equal(logits.max(axis=-1), 0.0)
    assert_array_equal(logits.argmax(axis=-1), np.argmax(known(z), axis=-1))
    assert_allclose(unknown.probabilities(logits), known.probabilities(known(z)), atol=1e-6)


def test_a_new_head_knows_no_bound():
    head = ClusterHead(3)
    assert np.asarray(head(np.ones((2, 4), "float32"))).max() == 0.0
    assert not head.is_lipschitz_known


def test_the_bound_is_one_on_a_backbone_that_is_one_lipschitz_by_construction():
    backbone = lipschitz_mlp((4, 4, 1), (16, 8))
    head = ClusterHead(3)
    head(backbone(keras.Input((4, 4, 1))))
    assert head.is_lipschitz_known
    assert float(head.lipschitz) == 1.0


def test_one_backbone_that_is_not_one_lipschitz_makes_the_bound_unknown_for_all():
    inputs = keras.Input((4, 4, 1))
    head = ClusterHead(3)
    head(lipschitz_mlp((4, 4, 1), (16, 8))(inputs))
    assert head.is_lipschitz_known
    head(keras.layers.Dense(8)(keras.layers.Flatten()(inputs)))
    assert not head.is_lipschitz_known
    head(lipschitz_mlp((4, 4, 1), (16, 8))(inputs))
    assert not head.is_lipschitz_known


def test_a_proved_bound_is_kept_and_rounded_upward():
    head = head_with(np.ones((3, 1, 8)))
    head.set_lipschitz(0.7, fingerprint=np.ones(32, "uint8"))
    head(keras.layers.Dense(8)(keras.Input((4,))))
    assert 0.7 <= float(head.lipschitz) <= 0.7 * (1 + 1e-7)


def test_the_bound_stays_unknown_on_any_other_backbone():
    inputs = keras.Input((4,))
    head = ClusterHead(3)
    head(keras.layers.Dense(8)(inputs))
    assert not head.is_lipschitz_known


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_geometry_is_float32_under_mixed_precision(cloud, policy):
    z, centers = cloud
    plain, mixed = head_with(centers, lipschitz=1.0003), head_with(centers, lipschitz=1.0003, dtype=policy)
    logits = mixed(z)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert_allclose(logits, plain(z), atol=1e-6)


def test_posterior_is_the_share_of_the_votes(cloud):
    z, centers = cloud
    head = head_with(centers)
    variance = np.random.default_rng(1).uniform(0.5, 2.0, size=(4, 3))
    head.variance.assign(variance)
    squared = ((z[:, None, None].astype("float64") - centers) ** 2).sum(-1) / variance
    votes = np.exp(-0.5 * squared)
    assert_allclose(head.posterior(z), votes.sum(-1) / votes.sum((1, 2))[:, None], atol=1e-5)
    fifth = np.sort(squared.reshape(50, 12))[:, 4, None, None]
    votes = np.where(squared <= fifth, votes, 0.0)
    assert_allclose(head.posterior(z, nearest=5), votes.sum(-1) / votes.sum((1, 2))[:, None], atol=1e-5)


def test_posterior_is_finite_where_every_vote_underflows(cloud):
    _, centers = cloud
    far = 1e4 * np.eye(6, dtype="float32")
    posterior = np.asarray(head_with(centers).posterior(far, nearest=2))
    assert np.isfinite(posterior).all()
    assert_allclose(posterior.sum(-1), 1.0, rtol=1e-5)


@pytest.fixture(params=range(4))
def golden(request):
    """A case of the published posterior, and a head with its centers and variances."""
    if not GOLDEN.exists():
        pytest.skip(f"the paper's numbers are not here: {GOLDEN.name}")
    prefix = f"posterior{request.param}_"
    case = {key.removeprefix(prefix): value for key, value in np.load(GOLDEN).items() if key.startswith(prefix)}
    head = head_with(case["centers"])
    head.variance.assign(case["variance"].reshape(head.variance.shape))
    return head, case


@pytest.mark.parametrize("voters", ["nearest", "all"])
def test_paper_scores_and_posterior_match_the_published_code(golden, voters):
    head, case = golden
    nearest = int(case["L"]) if voters == "nearest" else None
    scores = head.paper_scores(case["embeddings"], nearest)
    assert_allclose(scores, case[f"{voters}_scores"], atol=1e-5)
    probabilities = head.posterior(case["embeddings"], nearest, scores="paper")
    assert_allclose(probabilities, case[f"{voters}_probabilities"], atol=1e-5)


@pytest.mark.parametrize("voters", ["nearest", "all"])
def test_the_posterior_in_log_space_matches_the_published_code_where_that_does_not_underflow(golden, voters):
    head, case = golden
    is_sound = case[f"{voters}_scores"].sum(-1) >= 1e-12
    assert is_sound.any()
    nearest = int(case["L"]) if voters == "nearest" else None
    expected = case[f"{voters}_probabilities"][is_sound]
    assert_allclose(head.posterior(case["embeddings"][is_sound], nearest), expected, atol=1e-5)
    log_posterior = np.asarray(head.log_posterior(case["embeddings"][is_sound], nearest))
    assert_allclose(np.exp(log_posterior), expected, atol=1e-5)
    assert_array_equal(log_posterior == -np.inf, expected == 0)


def test_log_scores_are_the_logarithm_of_the_published_ones_where_those_do_not_underflow(golden):
    head, case = golden
    published = case["all_scores"]
    is_sound = published.sum(-1) >= 1e-12
    ours = np.asarray(head.log_scores(case["embeddings"]))
    assert np.isfinite(ours).all()
    assert_allclose(ours[is_sound], np.log(published[is_sound]), atol=1e-4)


def test_far_from_all_centers_log_scores_have_the_gradient_that_the_published_ones_lost(cloud):
    _, centers = cloud
    head = head_with(centers)
    variance = np.random.default_rng(1).uniform(0.5, 2.0, size=(4, 3)).astype("float32")
    head.variance.assign(variance)
    z = 1e3 * np.eye(6, dtype="float32")
    assert_array_equal(head.paper_scores(z), 0.0)
    assert_array_equal(gradient(head.paper_scores, z), 0.0)

    scores = head.log_scores(z)
    wide = z.astype("float64")[:, None, None] - centers
    votes = -(wide**2).sum(-1) / (2 * variance)
    assert_allclose(scores, votes.max(-1) + np.log(np.exp(votes - votes.max(-1, keepdims=True)).sum(-1)), rtol=1e-6)
    shares = np.exp(votes[:, 0] - votes[:, 0].max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    expected = -(shares[..., None] * wide[:, 0] / variance[0, :, None]).sum(1)
    assert_allclose(gradient(lambda z: head.log_scores(z)[:, 0], z), expected, rtol=1e-4, atol=1e-3)
    assert np.isfinite(gradient(lambda z: head.log_posterior(z, nearest=2)[:, 0], z)).all()


def test_the_gradient_of_the_posterior_is_finite_where_classes_have_no_vote(cloud):
    z, head = cloud[0], head_with(cloud[1])
    for scores in ("log", "paper"):

        def posterior(z, scores=scores):
            return head.posterior(z, nearest=2, scores=scores)

        assert (np.asarray(posterior(z)) == 0).any(axis=-1).all()
        of_squares = gradient(lambda z: posterior(z) ** 2, z)
        assert np.isfinite(of_squares).all()
        assert np.abs(of_squares).max() > 1e-3


def test_published_probabilities_fade_where_the_scores_sum_to_less_than_1e_12():
    head = head_with([[[0.0]], [[1.0]]])
    sums = np.exp([-(20 + 2 * np.arange(10.0))]).T  # from 2e-9 to 3e-17, next to the other class's share
    z = -np.sqrt(-2 * np.log(sums)).astype("float32")
    scores = np.exp(-0.5 * (z.astype("float64") - [0.0, 1.0]) ** 2)
    expected = scores / np.maximum(scores.sum(-1, keepdims=True), 1e-12)
    assert (expected.sum(-1) > 0.999).any()
    assert (expected.sum(-1) < 0.1).any()
    assert_allclose(head.posterior(z, scores="paper"), expected, rtol=1e-4)
    assert_allclose(head.posterior(z), scores / scores.sum(-1, keepdims=True), rtol=1e-4)


@pytest.mark.parametrize("nearest", range(1, 9))
def test_exactly_the_asked_number_votes_among_equals(nearest):
    head = head_with(np.ones((4, 2, 3)))
    scores = np.asarray(head.paper_scores(np.ones((5, 3), "float32"), nearest))
    assert_array_equal(scores.sum(-1), nearest)
    assert np.isin(scores, [0, 1, 2]).all()


@pytest.mark.parametrize("nearest", [0, 13])
@pytest.mark.parametrize("method", ["posterior", "log_posterior", "paper_scores"])
def test_a_number_of_voters_that_cannot_be_is_refused(cloud, method, nearest):
    with pytest.raises(ValueError, match=rf"nearest must lie in 1\.\.12 \(C \* K\); got {nearest}"):
        getattr(head_with(cloud[1]), method)(cloud[0], nearest=nearest)


def test_scores_of_another_name_are_refused(cloud):
    with pytest.raises(ValueError, match='scores must be "log" or "paper"; got \'linear\''):
        head_with(cloud[1]).posterior(cloud[0], scores="linear")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes must be an integer of at least 2; got 1"),
        ({"num_classes": 3, "clusters_per_class": 0}, "clusters_per_class must be an integer of at least 1; got 0"),
        ({"num_classes": 3, "temperature": 0.0}, "temperature must be positive; got 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClusterHead(**arguments)


def test_embeddings_must_be_flat():
    with pytest.raises(ValueError, match=r"takes embeddings \[B, D\]"):
        ClusterHead(3)(np.ones((2, 4, 4, 1)))


def test_a_bound_that_is_not_a_number_is_refused(cloud):
    for bound in (float("nan"), -1.0, 0.0):
        with pytest.raises(ValueError, match="must be a number > 0"):
            head_with(cloud[1]).set_lipschitz(bound)


def test_a_functional_model_trains_with_nothing_else(digits, tmp_path):
    (images, labels), _ = digits
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, ClusterHead(10)(lipschitz_mlp((8, 8, 1), (64, 32))(inputs)))
    model.compile("adam", CertifiedMarginLoss(), metrics=["accuracy", CertifiedRadius(), CertifiedAccuracy(0.2)])
    history = model.fit(images, labels, epochs=6, batch_size=64, verbose=0).history
    assert history["accuracy"][-1] > 0.9
    assert history["certified_accuracy"][-1] > 0.7
    assert 0.1 < history["certified_radius"][-1] < 1.0

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_array_equal(loaded.predict(images[:50], verbose=0), model.predict(images[:50], verbose=0))
    assert loaded.evaluate(images, labels, verbose=0) == model.evaluate(images, labels, verbose=0)


def test_an_arbitrary_backbone_trains_without_certificates(digits):
    (images, labels), _ = digits
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(8, 3, activation="relu")(inputs)
    model = keras.Model(inputs, ClusterHead(10)(keras.layers.Dense(16)(keras.layers.Flatten()(x))))
    model.compile("adam", CertifiedMarginLoss(temperature=1.0), metrics=["accuracy", CertifiedAccuracy(1e-6)])
    history = model.fit(images, labels, epochs=6, batch_size=64, verbose=0).history
    assert history["accuracy"][-1] > 0.8
    assert history["certified_accuracy"][-1] == 0.0
