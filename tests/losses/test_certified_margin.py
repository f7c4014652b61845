import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.special import logsumexp
from support.gradients import gradient

from clustr_keras import CertifiedMarginLoss, ClustrClassifier
from clustr_keras.backbones import lipschitz_mlp


def by_hand(labels, logits, temperature, margin):
    """Per example, `log sum_j exp(T l_j') - T l_y'` with `l'` the logits less the margin at `y`, in float64."""
    shifted = np.array(logits, "float64")
    shifted[np.arange(len(labels)), np.ravel(labels)] -= margin
    shifted *= temperature
    return logsumexp(shifted, axis=1) - shifted[np.arange(len(labels)), np.ravel(labels)]


@pytest.fixture
def batch():
    generator = np.random.default_rng(0)
    return generator.integers(0, 7, 20), generator.normal(size=(20, 7)).astype("float32")


def test_the_example_of_the_documentation():
    loss = CertifiedMarginLoss(temperature=8.0, margin=0.5)([0], [[1.0, -1.0]])
    assert_allclose(loss, np.log1p(np.exp(-12.0)), rtol=1e-2)


@given(temperature=st.floats(0.1, 30), margin=st.floats(0, 2), seed=st.integers(0, 1000))
def test_each_example_has_the_cross_entropy_of_its_logits_less_the_margin(temperature, margin, seed):
    generator = np.random.default_rng(seed)
    labels, logits = generator.integers(0, 4, 6), generator.normal(size=(6, 4)).astype("float32")
    losses = CertifiedMarginLoss(temperature, margin, reduction=None)(labels, logits)
    assert losses.shape == (6,)
    assert_allclose(losses, by_hand(labels, logits, temperature, margin), rtol=1e-4, atol=1e-5)


def test_without_a_margin_it_is_the_plain_cross_entropy_of_the_tempered_logits(batch):
    labels, logits = batch
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, 4.0 * logits)
    assert_allclose(CertifiedMarginLoss(4.0, 0.0)(labels, logits), plain, rtol=1e-6)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_labels_may_be_a_row_or_a_column(batch, shape):
    labels, logits = batch
    loss = CertifiedMarginLoss(8.0, 0.3)(labels.reshape(shape), logits)
    assert loss.shape == ()
    assert_allclose(loss, by_hand(labels, logits, 8.0, 0.3).mean(), rtol=1e-5)


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("weights_column", [False, True])
def test_examples_are_weighted(batch, column, weights_column):
    labels, logits = batch
    weights = np.linspace(0, 2, len(labels)).astype("float32")
    loss = CertifiedMarginLoss(8.0, 0.3)(
        labels[:, None] if column else labels, logits, sample_weight=weights[:, None] if weights_column else weights
    )
    assert_allclose(loss, (weights * by_hand(labels, logits, 8.0, 0.3)).mean(), rtol=1e-5)


def test_far_outside_the_margin_the_loss_is_linear_and_never_saturates():
    logits = np.float32([[-100, 100], [-1000, 1000]])
    losses = CertifiedMarginLoss(8.0, 0.5, reduction=None)(np.array([0, 0]), logits)
    assert_allclose(losses, [8 * 200.5, 8 * 2000.5], rtol=1e-6)


def test_the_gradient_is_the_temperature_times_softmax_less_one_hot(batch):
    labels, logits = batch
    found = gradient(lambda logits: CertifiedMarginLoss(3.0, 0.4, reduction="sum")(labels, logits), logits)
    shifted = logits.astype("float64")
    shifted[np.arange(20), labels] -= 0.4
    softmax = np.exp(3.0 * shifted - logsumexp(3.0 * shifted, axis=1, keepdims=True))
    softmax[np.arange(20), labels] -= 1
    assert_allclose(found, 3.0 * softmax, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match=f"temperature must be positive; got {temperature}"):
        CertifiedMarginLoss(temperature=temperature)


@pytest.mark.parametrize("margin", [-0.1, float("nan")])
def test_a_negative_margin_is_refused(margin):
    with pytest.raises(ValueError, match=f"margin must be at least 0; got {margin}"):
        CertifiedMarginLoss(margin=margin)


@pytest.mark.parametrize(
    "copy",
    [
        lambda loss: CertifiedMarginLoss.from_config(loss.get_config()),
        lambda loss: keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss)),
        lambda loss: keras.losses.deserialize(keras.losses.serialize(loss)),
    ],
)
def test_a_copy_from_its_configuration_computes_the_same(batch, copy):
    loss = CertifiedMarginLoss(3.0, 0.7, reduction="sum", name="mine")
    copied = copy(loss)
    assert copied.get_config() == loss.get_config()
    assert (copied.temperature, copied.margin, copied.reduction, copied.name) == (3.0, 0.7, "sum", "mine")
    assert_allclose(copied(*batch), by_hand(*batch, 3.0, 0.7).sum(), rtol=1e-5)
    scheduled = CertifiedMarginLoss(rising(), rising())
    assert copy(scheduled).get_config() == scheduled.get_config()
    assert float(copy(scheduled).margin(2)) == pytest.approx(0.4)


def rising():
    return keras.optimizers.schedules.PolynomialDecay(0.0, decay_steps=4, end_learning_rate=0.8)


@pytest.mark.parametrize("step", [0, 1, 4, 9])
def test_schedules_go_by_the_step(batch, step):
    falling = keras.optimizers.schedules.PiecewiseConstantDecay([2], [8.0, 3.0])
    loss = CertifiedMarginLoss(falling, rising(), reduction=None)
    loss.step = keras.Variable(step, dtype="int32", trainable=False)
    expected = by_hand(*batch, 8.0 if step <= 2 else 3.0, min(0.2 * step, 0.8))
    assert_allclose(loss(*batch), expected, rtol=1e-5, atol=1e-6)


def test_a_classifier_counts_the_steps_and_goes_on_with_them_when_it_is_loaded(tmp_path):
    keras.utils.set_random_seed(0)
    images, labels = np.random.default_rng(0).uniform(size=(12, 8, 8, 1)).astype("float32"), np.arange(12) % 3
    model = ClustrClassifier(lipschitz_mlp((8, 8, 1), widths=(8,)), 3)
    model.compile(keras.optimizers.SGD(0.0), CertifiedMarginLoss(4.0, rising()))
    logits = model.predict(images, verbose=0)
    expected = [by_hand(labels, logits, 4.0, margin).mean() for margin in (0.0, 0.2, 0.4, 0.6, 0.8)]
    found = model.fit(images, labels, batch_size=12, epochs=3, verbose=0).history["loss"]
    assert_allclose(found, expected[:3], rtol=1e-5)
    assert_allclose(model.evaluate(images, labels, verbose=0)[0], expected[3], rtol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    found = loaded.fit(images, labels, batch_size=12, epochs=2, verbose=0).history["loss"]
    assert_allclose(found, expected[3:], rtol=1e-5)


def test_a_schedule_without_a_step_is_refused_with_a_way_out(batch):
    with pytest.raises(ValueError, match=r"set loss\.step = model\.optimizer\.iterations"):
        CertifiedMarginLoss(4.0, rising())(*batch)


def test_it_is_registered_under_the_package():
    assert keras.saving.get_registered_name(CertifiedMarginLoss) == "clustr_keras>CertifiedMarginLoss"


def test_it_says_what_it_acts_on():
    assert CertifiedMarginLoss.acts_on == "logits"
