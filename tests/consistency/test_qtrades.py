import types

import keras
import numpy as np
import pytest
from keras import ops
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_softmax, logsumexp, softmax
from support.gradients import keep
from support.gradients import value_and_gradients as of_sum

from clustr_keras import ClusterHead
from clustr_keras.backend import example_noise
from clustr_keras.consistency import QTRADES

EPS, STEP = 0.1, 4


def linear_model(scale=1.0, head=None, layers=(), **kwargs):
    """`z = W^T x` and a head of 3 classes with 2 clusters; `layers` stand before the product."""
    rng = np.random.default_rng(0)
    dense = keras.layers.Dense(3, use_bias=False, **kwargs)
    backbone = keras.Sequential([keras.Input((3, 3, 1)), keras.layers.Flatten(), *layers, dense])
    dense.kernel.assign(scale * rng.normal(size=(9, 3)))
    if head is None:
        head = ClusterHead(3, 2)
        head.build((None, 3))
        head.centers.assign(rng.normal(size=(3, 2, 3)))
        head.variance.assign(rng.uniform(0.5, 2.0, size=(3, 2)))
    return types.SimpleNamespace(backbone=Watched(backbone), head=head, kernel=dense.kernel)


class Watched:
    """A backbone that keeps what it was called with."""

    def __init__(self, backbone):
        self.backbone, self.seen = backbone, []

    @property
    def variables(self):
        return self.backbone.variables

    def __call__(self, images, training):
        assert training is True
        keep(self.seen, images)
        return self.backbone(images, training=training)


@pytest.fixture
def images():
    """Some pixels at 0 and at 1."""
    x = np.random.default_rng(1).uniform(-0.2, 1.2, size=(6, 3, 3, 1))
    return np.clip(x, 0.0, 1.0).astype("float32")


def start_of(images, seed=0):
    """What an attack begins with, in float64."""
    noise = example_noise("uniform", seed, ops.convert_to_tensor(STEP), ops.arange(len(images)), images.shape[1:])
    return np.clip(images + EPS * np.asarray(noise, "float64"), 0.0, 1.0)


def by_hand(kind, kernel, model, images):
    """Scores and distribution in float64."""
    centers, variance = np.asarray(model.head.centers, "float64"), np.asarray(model.head.variance, "float64")
    z = images.reshape(len(images), -1).astype("float64") @ kernel
    squares = ((z[:, None, None] - centers) ** 2).sum(-1)
    if kind == "logits":
        # The distance to the bisector of each pair, of those the farthest of the own, of those the nearest rival's.
        a, b = centers[:, :, None, None], centers[None, None]
        lengths = 2 * np.linalg.norm(a - b, axis=-1)
        lengths[lengths == 0] = 1.0
        h = (squares[:, None, None] - squares[:, :, :, None, None]) / lengths
        h = np.where(np.eye(3, dtype=bool)[None, :, :, None], np.inf, h.max(2))
        scores = h.min((2, 3))
        return scores, softmax(scores, -1)
    scores = logsumexp(-squares / (2 * variance), axis=-1)
    if kind == "paper":
        scores = np.exp(scores)
        return scores, scores / np.maximum(scores.sum(-1, keepdims=True), 1e-12)
    return scores, softmax(scores, -1)


def cross_entropy(distribution, scores):
    return -(distribution * log_softmax(scores, -1)).sum(-1)


def numeric_gradient(function, at, step=1e-5):
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        moved = np.zeros_like(at)
        moved[index] = step
        gradient[index] = (function(at + moved) - function(at - moved)) / (2 * step)
    return gradient


def twins_by_hand(kind, model, images, step_size=1.25 * EPS):
    """One signed-gradient step from the start, in float64."""
    kernel, start = np.asarray(model.kernel, "float64"), start_of(images)
    _, given = by_hand(kind, kernel, model, images)
    gradient = numeric_gradient(
        lambda x: cross_entropy(given, by_hand(kind, kernel, model, x)[0]).sum(), start.astype("float64")
    )
    assert np.abs(gradient).min() > 1e-6
    moved = start + step_size * np.sign(gradient)
    return np.clip(np.clip(moved, images - EPS, images + EPS), 0.0, 1.0)


def value_and_gradients(term, model, images):
    """The values of the term, and the gradients of their mean in the kernel and the centers."""
    images = ops.convert_to_tensor(images)

    def weighted():
        embeddings = model.backbone(images, training=True)
        return term(model, images, embeddings, ops.convert_to_tensor(STEP)) / len(images)

    moving = [variable for variable in model.backbone.variables if "moving" in variable.path]
    values, found = of_sum(weighted, model.kernel, model.head.centers, updated=moving)
    return len(images) * values, found


@pytest.mark.parametrize("kind", ["log", "logits", "paper"])
def test_the_twin_is_one_signed_gradient_step_from_a_uniform_start(images, kind):
    model = linear_model()
    values, _ = value_and_gradients(QTRADES(8.0, EPS, scores=kind), model, images)
    clean, start, twins = model.backbone.seen
    assert_array_equal(clean, images)
    assert_allclose(start, start_of(images), atol=1e-6)
    expected = twins_by_hand(kind, model, images)
    assert_allclose(twins, expected, atol=1e-6)
    kernel = np.asarray(model.kernel, "float64")
    _, distribution = by_hand(kind, kernel, model, images)
    scores, _ = by_hand(kind, kernel, model, expected)
    assert_allclose(values, 8.0 * cross_entropy(distribution, scores), rtol=1e-5)


def test_a_step_of_another_length(images):
    model = linear_model()
    value_and_gradients(QTRADES(8.0, EPS, step_size=0.02), model, images)
    assert_allclose(model.backbone.seen[2], twins_by_hand("log", model, images, step_size=0.02), atol=1e-6)


@pytest.mark.parametrize("kind", ["log", "logits", "paper"])
def test_the_loss_differentiates_the_images_distribution_and_not_the_attack(images, kind):
    model = linear_model()
    _, (gradient, _) = value_and_gradients(QTRADES(8.0, EPS, scores=kind), model, images)
    twins, kernel = twins_by_hand(kind, model, images), np.asarray(model.kernel, "float64")
    _, given = by_hand(kind, kernel, model, images)

    def term(kernel, distribution=None):
        distribution = by_hand(kind, kernel, model, images)[1] if distribution is None else distribution
        return 8.0 * cross_entropy(distribution, by_hand(kind, kernel, model, twins)[0]).mean()

    expected = numeric_gradient(term, kernel)
    assert_allclose(gradient, expected, atol=1e-4 * np.abs(expected).max())
    with_given = numeric_gradient(lambda kernel: term(kernel, given), kernel)
    assert np.abs(gradient - with_given).max() > 0.01 * np.abs(expected).max()


def test_the_papers_accident_adds_the_gradient_of_the_attacks_loss_at_the_start(images):
    model = linear_model()
    values, gradients = value_and_gradients(QTRADES(8.0, EPS), model, images)
    with_accident, more = value_and_gradients(QTRADES(8.0, EPS, paper_gradient=True), model, images)
    assert_array_equal(with_accident, values)

    kernel, start = np.asarray(model.kernel, "float64"), start_of(images)
    _, given = by_hand("log", kernel, model, images)
    expected = numeric_gradient(
        lambda kernel: cross_entropy(given, by_hand("log", kernel, model, start)[0]).mean(), kernel
    )
    assert np.abs(expected).max() > 1e-2
    assert_allclose(more[0] - gradients[0], expected, atol=1e-4 * np.abs(expected).max())
    assert np.abs(more[1] - gradients[1]).max() > 1e-3, "centers that learn have their share of it"


@pytest.mark.parametrize("paper_gradient", [False, True])
def test_each_of_three_passes_moves_the_statistics_of_batch_normalization(images, paper_gradient):
    normalization = keras.layers.BatchNormalization(momentum=0.9)
    model = linear_model(layers=[normalization])
    value_and_gradients(QTRADES(8.0, EPS, paper_gradient=paper_gradient), model, images)
    assert len(model.backbone.seen) == 3
    mean, variance = np.zeros(9), np.ones(9)
    for seen in model.backbone.seen:
        mean = 0.9 * mean + 0.1 * seen.reshape(6, 9).mean(0)
        variance = 0.9 * variance + 0.1 * seen.reshape(6, 9).var(0)
    assert_allclose(normalization.moving_mean, mean, rtol=1e-5)
    assert_allclose(normalization.moving_variance, variance, rtol=1e-5)


@pytest.fixture
def far_model():
    """Every embedding is 1000 away from all centers, which lie next to each other."""
    model = linear_model()
    rng = np.random.default_rng(2)
    model.head.centers.assign(600.0 + 0.001 * rng.normal(size=(3, 2, 3)))
    model.head.variance.assign(np.ones((3, 2)))
    return model


def test_far_from_all_centers_the_attack_in_log_space_sees(images, far_model):
    values, gradients = value_and_gradients(QTRADES(8.0, EPS, scores="log"), far_model, images)
    _, start, twins = far_model.backbone.seen
    assert np.asarray(far_model.head.squared_distances(far_model.backbone.backbone(start))).min() > 1e6
    assert np.isfinite(values).all()
    assert all(np.isfinite(gradient).all() and np.abs(gradient).max() > 1e-5 for gradient in gradients)
    assert (twins != start)[(start > 0.0) & (start < 1.0)].all()


def test_far_from_all_centers_the_attack_on_the_published_scores_is_blind(images, far_model):
    values, gradients = value_and_gradients(QTRADES(8.0, EPS, scores="paper"), far_model, images)
    assert_array_equal(values, 0.0)
    assert all((gradient == 0).all() for gradient in gradients)
    _, start, twins = far_model.backbone.seen
    assert_array_equal(twins, start)


@pytest.mark.parametrize("variance", [1.0, 1e-2, 1e-4])
def test_half_precision_attacks_in_the_direction_of_float32(images, variance):
    # The smaller the variance, the surer the answers and the smaller the gradients, down to where float16 has only 0.
    # Batch normalization makes one number of all examples: else a sure example has a gradient of 0 in float32 as well.
    def twins(dtype):
        normalization = keras.layers.BatchNormalization(dtype=dtype)
        model = linear_model(layers=[normalization], dtype=dtype)
        model.head.variance.assign(np.full((3, 2), variance))
        values, gradients = value_and_gradients(QTRADES(8.0, EPS), model, images)
        assert np.isfinite(values).all()
        assert all(np.isfinite(gradient).all() for gradient in gradients)
        return model.backbone.seen[2]

    expected = twins("float32")
    assert (expected != start_of(images).astype("float32")).mean() > 0.9
    assert (np.abs(twins("mixed_float16") - expected) < 1e-3).mean() > 0.97


def test_it_survives_its_config():
    term = QTRADES(3.0, 0.05, step_size=[0.01, 0.02], scores="paper", paper_gradient=True, seed=7)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(term))
    assert isinstance(again, QTRADES)
    assert vars(again) == vars(term)
    assert QTRADES(eps=0.1).step_size == pytest.approx(0.125)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": -1.0}, "weight must be at least 0; got -1"),
        ({"weight": float("nan")}, "weight must be at least 0; got nan"),
        ({"eps": 8}, r"eps must lie in \(0, 1\] and step_size must be positive, for pixels in \[0, 1\]; got 8"),
        ({"eps": 0}, r"eps must lie in \(0, 1\]"),
        ({"step_size": 0}, r"step_size must be positive.*got 0\.03.*, 0\.0"),
        ({"step_size": [0.1, -0.1]}, "step_size must be positive"),
        ({"scores": "linear"}, 'scores must be "log", "logits" or "paper"; got \'linear\''),
        ({"seed": -1}, r"seed must be an integer in 0\.\.2\^31 - 1; got -1"),
        ({"seed": 2**31}, "seed must be an integer"),
        ({"seed": None}, "seed must be an integer.*got None"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        QTRADES(**arguments)
