import itertools
import types

import keras
import numpy as np
import pytest
from keras import ops
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp, rel_entr, softmax
from support.gradients import keep

from clustr_keras import ClusterHead
from clustr_keras.backend import example_noise
from clustr_keras.consistency import TRADES

EPS, STEP = 8 / 255, 4


class Watched:
    """A smooth backbone that keeps what it was called with."""

    def __init__(self, channels):
        keras.utils.set_random_seed(1)
        self.layers = keras.Sequential(
            [
                keras.Input((4, 4, channels)),
                keras.layers.Flatten(),
                keras.layers.Dense(8, "tanh", kernel_initializer=keras.initializers.RandomNormal(stddev=1.0)),
                keras.layers.Dense(3),
            ]
        )
        self.seen = []

    @property
    def variables(self):
        return self.layers.variables

    def __call__(self, images, training):
        assert training is True
        keep(self.seen, images)
        return self.layers(images, training=training)


def smooth_model(channels=1):
    head = ClusterHead(4, 2)
    head.build((None, 3))
    head.centers.assign(np.random.default_rng(0).normal(size=(4, 2, 3)))
    head.variance.assign(np.full((4, 2), 0.3))
    return types.SimpleNamespace(backbone=Watched(channels), head=head)


def images(channels=1, low=-0.1, high=1.1):
    x = np.random.default_rng(1).uniform(low, high, size=(6, 4, 4, channels))
    return np.clip(x, 0.0, 1.0).astype("float32")


def applied(term, model, x):
    x = ops.convert_to_tensor(x)
    return np.asarray(term(model, x, model.backbone(x, training=True), ops.convert_to_tensor(STEP)))


def scores(model, x):
    z = np.asarray(model.backbone.layers(x), "float64")
    squares = ((z[:, None, None] - np.asarray(model.head.centers)) ** 2).sum(-1)
    return logsumexp(-squares / (2 * np.asarray(model.head.variance)), axis=-1)


def kl(model, x, twins):
    return rel_entr(softmax(scores(model, x), -1), softmax(scores(model, twins), -1)).sum(-1)


def test_the_start_is_the_image_with_a_little_normal_noise():
    model, x = smooth_model(), images(low=0.1, high=0.9)
    applied(TRADES(eps=EPS, seed=5), model, x)
    clean, start = model.backbone.seen[:2]
    assert_array_equal(clean, x)
    noise = np.asarray(example_noise("normal", 5, ops.convert_to_tensor(STEP), ops.arange(6), (4, 4, 1)))
    assert_allclose(start - x, 1e-3 * noise, atol=2e-7)


def test_ten_steps_climb_within_the_ball_and_the_pixel_range():
    model, x = smooth_model(), images()
    assert (x == 0.0).any()
    assert (x == 1.0).any()
    applied(TRADES(eps=EPS), model, x)
    _, *path = model.backbone.seen
    assert len(path) == 11
    for twins in path:
        assert np.abs(twins - x).max() <= EPS * (1 + 1e-6)
        assert twins.min() >= 0.0
        assert twins.max() <= 1.0
    climbed = np.array([kl(model, x, twins) for twins in path])
    assert (climbed[-1] > 10 * climbed[0]).all()
    # With random signs in the place of the gradient's one gets less far.
    signs = np.random.default_rng(0).choice([-EPS, EPS], size=(200, *x.shape))
    at_random = np.array([kl(model, x, np.clip(x + sign, 0.0, 1.0).astype("float32")) for sign in signs])
    assert (climbed[-1] > np.quantile(at_random, 0.9, axis=0)).all()


def test_each_channel_has_its_own_step():
    model, x = smooth_model(3), images(3, low=0.45, high=0.55)
    steps = np.array([0.01, 0.02, 0.03])
    applied(TRADES(eps=0.4, step_size=steps.tolist(), steps=4), model, x)
    _, *path = model.backbone.seen
    assert len(path) == 5
    for before, after in itertools.pairwise(path):
        assert_allclose(np.abs(after - before), np.broadcast_to(steps, x.shape), atol=1e-6)


@pytest.mark.parametrize("divergence", ["kl", "cross_entropy"])
def test_the_loss_is_the_divergence_of_its_name(divergence):
    model, x = smooth_model(), images()
    values = applied(TRADES(3.0, EPS, steps=2, outer_divergence=divergence), model, x)
    twins = model.backbone.seen[-1]
    expected = kl(model, x, twins)
    if divergence == "cross_entropy":
        distribution = softmax(scores(model, x), -1)
        expected = expected - (distribution * np.log(distribution)).sum(-1)
    assert_allclose(values, 3.0 * expected, rtol=1e-4, atol=1e-6)


def test_the_attack_is_the_same_whatever_the_loss_is():
    paths = []
    for divergence in ("kl", "cross_entropy"):
        model = smooth_model()
        applied(TRADES(eps=EPS, outer_divergence=divergence), model, images())
        paths.append(model.backbone.seen)
    assert_array_equal(paths[0], paths[1])


def test_it_survives_its_config():
    term = TRADES(2.0, 0.1, [0.01, 0.02, 0.03], np.int64(7), "cross_entropy", "logits", np.int64(11))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(term))
    assert isinstance(again, TRADES)
    assert vars(again) == vars(term)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps must be an integer of at least 1; got 0"),
        ({"steps": 2.5}, "steps must be an integer of at least 1; got 2.5"),
        ({"outer_divergence": "mse"}, 'outer_divergence must be "kl" or "cross_entropy"; got \'mse\''),
        ({"scores": None}, 'scores must be "log", "logits" or "paper"; got None'),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TRADES(**arguments)
