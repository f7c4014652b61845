import types

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_softmax, logsumexp

from clustr_keras import CertifiedMarginLoss, ClusterHead
from clustr_keras.consistency import QTRADES, TRADES, EmbeddingConsistency
from clustr_keras.losses import CenterMagnetLoss, MagnetLoss, center_magnet_losses, magnet_losses
from clustr_keras.objective import Objective, class_ids, is_class_and_cluster


@pytest.fixture
def model():
    """A linear backbone and a head of 3 classes with 2 clusters."""
    rng = np.random.default_rng(0)
    dense = keras.layers.Dense(3)
    backbone = keras.Sequential([keras.Input((3, 3, 1)), keras.layers.Flatten(), dense])
    dense.kernel.assign(rng.normal(size=(9, 3)))
    head = ClusterHead(3, 2)
    head.build((None, 3))
    head.centers.assign(rng.normal(size=(3, 2, 3)))
    head.variance.assign(rng.uniform(0.5, 2.0, size=(3, 2)))
    return types.SimpleNamespace(backbone=backbone, head=head)


@pytest.fixture
def batch(model):
    """Images, labels with clusters `[B, 2]`, and embeddings."""
    rng = np.random.default_rng(1)
    images = keras.ops.convert_to_tensor(rng.uniform(size=(8, 3, 3, 1)), "float32")
    clusters = np.array([0, 0, 3, 3, 3, 4, 4, 0], "int32")
    return images, keras.ops.convert_to_tensor(np.stack([clusters // 2, clusters], -1)), model.backbone(images)


def log_scores(model, embeddings):
    squares = ((np.asarray(embeddings, "float64")[:, None, None] - np.asarray(model.head.centers)) ** 2).sum(-1)
    return logsumexp(-squares / (2 * np.asarray(model.head.variance)), axis=-1)


def terms(objective, model, images, y, embeddings, sample_weight=None, step=0):
    return float(objective.terms(model, images, y, embeddings, sample_weight, keras.ops.convert_to_tensor(step)))


def test_the_magnet_loss_takes_batches_of_clusters(model, batch):
    _, y, embeddings = batch
    value = Objective(MagnetLoss(alpha=2.0)).loss_value(model.head, y, embeddings, None)
    expected, _ = magnet_losses(embeddings, y[:, 0], y[:, 1], alpha=2.0)
    assert np.mean(expected) > 0.1
    assert_allclose(value, np.mean(expected), rtol=1e-6)


@pytest.mark.parametrize("loss", [MagnetLoss(alpha=2.0), CenterMagnetLoss(alpha=2.0)])
@pytest.mark.parametrize("shape", [(8,), (8, 1)])
def test_labels_without_clusters_are_held_against_the_heads_centers(model, batch, loss, shape):
    _, y, embeddings = batch
    squares = ((np.asarray(embeddings)[:, None, None] - np.asarray(model.head.centers)) ** 2).sum(-1)
    expected, _ = center_magnet_losses(squares, y[:, 0], alpha=2.0)
    value = Objective(loss).loss_value(model.head, keras.ops.reshape(y[:, 0], shape), embeddings, None)
    assert_allclose(value, np.mean(expected), rtol=1e-5)


def test_the_center_loss_overlooks_clusters(model, batch):
    _, y, embeddings = batch
    objective = Objective(CenterMagnetLoss(alpha=2.0))
    with_clusters = objective.loss_value(model.head, y, embeddings, None)
    assert_array_equal(with_clusters, objective.loss_value(model.head, y[:, 0], embeddings, None))


@pytest.mark.parametrize("term", [QTRADES(eps=0.1), TRADES(eps=0.1, steps=2), EmbeddingConsistency(eps=0.1)])
def test_a_consistency_term_counts_by_its_mean(model, batch, term):
    images, _, embeddings = batch
    expected = np.asarray(term(model, images, embeddings, keras.ops.convert_to_tensor(3)))
    assert expected.shape == (8,)
    assert_allclose(terms(Objective(None, term), model, *batch, step=3), expected.mean(), rtol=1e-5)
    assert terms(Objective(None, term), model, *batch, step=4) != pytest.approx(expected.mean(), rel=1e-4)


def test_the_cross_entropy_is_that_of_the_scores(model, batch):
    _, y, embeddings = batch
    scores, labels = log_scores(model, embeddings), np.asarray(y)[:, 0]
    expected = -log_softmax(scores, -1)[np.arange(8), labels].mean()
    for labels in (y, y[:, 0], y[:, :1]):
        assert_allclose(terms(Objective(None, None, 0.7), model, batch[0], labels, embeddings), 0.7 * expected, 1e-5)


def test_with_the_published_scores_the_cross_entropy_takes_them_as_logits(model, batch):
    _, y, embeddings = batch
    term = QTRADES(weight=0.0, eps=0.1, scores="paper")
    scores = np.exp(log_scores(model, embeddings))
    expected = -log_softmax(scores, -1)[np.arange(8), np.asarray(y)[:, 0]].mean()
    assert_allclose(terms(Objective(None, term, 0.7), model, *batch), 0.7 * expected, 1e-5)


def test_terms_add_up(model, batch):
    alone = [terms(Objective(None, QTRADES(eps=0.1)), model, *batch), terms(Objective(None, None, 0.7), model, *batch)]
    assert min(alone) > 0.1
    assert_allclose(terms(Objective(None, QTRADES(eps=0.1), 0.7), model, *batch), sum(alone), rtol=1e-5)


def test_rows_of_weight_zero_do_not_count(model, batch):
    images, y, embeddings = batch
    objective = Objective(None, QTRADES(eps=0.1), 0.7)
    first = terms(objective, model, images[:5], y[:5], embeddings[:5])
    for weights in ([1.0] * 5 + [0.0] * 3, [[2.0]] * 5 + [[0.0]] * 3):
        assert_allclose(terms(objective, model, *batch, np.float32(weights)), first, rtol=1e-5)
    assert terms(objective, model, *batch) != pytest.approx(first, rel=1e-2)
    assert terms(objective, model, *batch, np.zeros(8, "float32")) == 0.0


def test_without_terms_there_is_nothing_to_add(model, batch):
    assert Objective(MagnetLoss()).terms(model, *batch, None, keras.ops.convert_to_tensor(0)) == 0.0


def test_it_knows_what_it_needs():
    for loss in (None, "mse", CertifiedMarginLoss()):
        assert Objective(loss).acts_on_logits
        assert not Objective(loss).needs_embeddings
        assert Objective(loss, xent_lambda=0.1).needs_embeddings
        assert Objective(loss, QTRADES()).needs_embeddings
    for loss in (MagnetLoss(), CenterMagnetLoss()):
        assert not Objective(loss).acts_on_logits
        assert Objective(loss).needs_embeddings
    assert Objective(MagnetLoss()).has_batch_clusters
    assert not Objective(CenterMagnetLoss()).has_batch_clusters


def test_labels_with_and_without_clusters_are_told_apart():
    pairs = np.array([[1, 2], [0, 1]])
    assert is_class_and_cluster(pairs)
    assert not is_class_and_cluster(pairs[:, 0])
    assert not is_class_and_cluster(pairs[:, :1])
    for labels in (pairs, pairs[:, 0], pairs[:, :1], pairs[:, 0].astype("float32")):
        assert_array_equal(class_ids(labels), [1, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"xent_lambda": -0.1}, "xent_lambda must be at least 0; got -0.1"),
        ({"xent_lambda": float("nan")}, "xent_lambda must be at least 0; got nan"),
        ({"consistency": "qtrades"}, r"consistency must be a term of clustr_keras\.consistency or None; got 'qtrades'"),
        ({"consistency": QTRADES}, "consistency must be a term.*got <class"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Objective(None, **arguments)
