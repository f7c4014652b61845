import pathlib

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

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


@pytest.mark.skipif(not GOLDEN.exists(), reason=f"the paper's numbers are not here: {GOLDEN.name}")
def test_posterior_matches_the_published_code():
    golden = np.load(GOLDEN)
    cases = [key for key in golden if key.startswith("posterior") and key.endswith("_embeddings")]
    assert cases
    for case in (key.removesuffix("embeddings") for key in cases):
        head = head_with(golden[f"{case}centers"])
        head.variance.assign(golden[f"{case}variance"].reshape(head.variance.shape))
        for name, nearest in (("nearest", int(golden[f"{case}L"])), ("all", None)):
            # Where the published scores underflow, its probabilities are no longer shares.
            is_sound = golden[f"{case}{name}_scores"].sum(-1) >= 1e-12
            ours = np.asarray(head.posterior(golden[f"{case}embeddings"], nearest=nearest))
            assert_allclose(ours[is_sound], golden[f"{case}{name}_probabilities"][is_sound], atol=1e-5)


@pytest.mark.parametrize("nearest", [0, 13])
def test_posterior_refuses_a_number_of_voters_that_cannot_be(cloud, nearest):
    with pytest.raises(ValueError, match=r"nearest must lie in 1\.\.12"):
        head_with(cloud[1]).posterior(cloud[0], nearest=nearest)


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
