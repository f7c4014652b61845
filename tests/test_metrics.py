import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from clustr_keras import CertifiedAccuracy, CertifiedMarginLoss, CertifiedRadius, ClusterHead
from clustr_keras.backbones import lipschitz_mlp


def radius_by_hand(labels, logits, weights=None):
    """Mean radius, 0 where the largest logit is another's; the logits have one positive entry at most."""
    radii = [row.max() if row.argmax() == label else 0.0 for label, row in zip(np.ravel(labels), logits, strict=True)]
    return np.average(radii, weights=weights)


def accuracy_by_hand(labels, logits, radius, weights=None):
    right = [row.argmax() == label and row.max() >= radius for label, row in zip(np.ravel(labels), logits, strict=True)]
    return np.average(right, weights=weights)


def distance_logits(seed, count=20, classes=5):
    """Logits as the head emits them: the winner's is positive, all others are at most 0."""
    generator = np.random.default_rng(seed)
    logits = -generator.exponential(size=(count, classes))
    winner = generator.integers(0, classes, count)
    logits[np.arange(count), winner] *= -1
    labels = np.where(generator.random(count) < 0.6, winner, generator.integers(0, classes, count))
    return labels, logits.astype("float32")


metrics = pytest.mark.parametrize(
    ("make", "by_hand"),
    [
        (CertifiedRadius, radius_by_hand),
        (lambda **kwargs: CertifiedAccuracy(0.5, **kwargs), lambda *args: accuracy_by_hand(*args[:2], 0.5, *args[2:])),
    ],
    ids=["radius", "accuracy"],
)


@metrics
@given(seed=st.integers(0, 1000))
def test_the_mean_over_a_batch(make, by_hand, seed):
    labels, logits = distance_logits(seed)
    assert_allclose(make()(labels, logits), by_hand(labels, logits), rtol=1e-5)


@metrics
def test_labels_may_be_a_row_or_a_column(make, by_hand):
    labels, logits = distance_logits(1)
    assert_allclose(make()(labels[:, None], logits), by_hand(labels, logits), rtol=1e-6)
    assert_allclose(make()(labels.astype("float32"), logits), by_hand(labels, logits), rtol=1e-6)


@metrics
@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("weights_column", [False, True])
def test_examples_are_weighted(make, by_hand, column, weights_column):
    labels, logits = distance_logits(2)
    weights = np.linspace(0, 2, len(labels)).astype("float32")
    metric = make()
    metric.update_state(
        labels[:, None] if column else labels, logits, sample_weight=weights[:, None] if weights_column else weights
    )
    assert_allclose(metric.result(), by_hand(labels, logits, weights), rtol=1e-5)


@metrics
def test_the_mean_is_over_all_batches_and_starts_again_after_a_reset(make, by_hand):
    metric = make()
    first, second = distance_logits(3, count=5), distance_logits(4, count=11)
    metric.update_state(*first)
    metric.update_state(*second)
    together = [np.concatenate(parts) for parts in zip(first, second, strict=True)]
    assert_allclose(metric.result(), by_hand(*together), rtol=1e-5)
    metric.reset_state()
    metric.update_state(*second)
    assert_allclose(metric.result(), by_hand(*second), rtol=1e-5)


def test_a_radius_that_is_met_exactly_counts():
    assert float(CertifiedAccuracy(0.5)([0, 1], [[0.5, -0.5], [-0.25, 0.25]])) == 0.5


def test_a_wrong_example_counts_as_radius_0_and_not_as_a_negative_one():
    assert float(CertifiedRadius()([1], [[3.0, -3.0]])) == 0.0


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan")])
def test_a_radius_that_is_not_positive_is_refused(radius):
    with pytest.raises(ValueError, match=f"radius must be positive; got {radius}"):
        CertifiedAccuracy(radius)


@pytest.mark.parametrize(
    "copy",
    [
        lambda metric: type(metric).from_config(metric.get_config()),
        lambda metric: keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric)),
        lambda metric: keras.metrics.deserialize(keras.metrics.serialize(metric)),
    ],
)
@pytest.mark.parametrize(
    "metric", [CertifiedRadius(name="mine"), CertifiedAccuracy(0.25, name="mine", dtype="float64")]
)
def test_a_copy_from_its_configuration_computes_the_same(metric, copy):
    copied = copy(metric)
    assert type(copied) is type(metric)
    assert copied.get_config() == metric.get_config()
    assert (copied.name, copied.dtype) == (metric.name, metric.dtype)
    labels, logits = distance_logits(5)
    expected = (
        radius_by_hand(labels, logits)
        if isinstance(metric, CertifiedRadius)
        else accuracy_by_hand(labels, logits, 0.25)
    )
    assert_allclose(copied(labels, logits), expected, rtol=1e-6)


def test_they_are_registered_under_the_package():
    assert keras.saving.get_registered_name(CertifiedRadius) == "clustr_keras>CertifiedRadius"
    assert keras.saving.get_registered_name(CertifiedAccuracy) == "clustr_keras>CertifiedAccuracy"


def plain_model():
    backbone = lipschitz_mlp((8, 8, 1), (16, 8))
    return keras.Model(backbone.input, ClusterHead(10)(backbone.output))


def test_they_plug_into_a_plain_functional_model(digits, tmp_path):
    (images, labels), (x_test, y_test) = digits
    images, y = images[:128], labels[:128, None]
    model = plain_model()
    model.compile("adam", CertifiedMarginLoss(), metrics=["accuracy", CertifiedRadius(), CertifiedAccuracy(0.1)])
    history = model.fit(images, y, batch_size=48, epochs=2, validation_data=(x_test, y_test), verbose=0).history
    assert {"certified_radius", "certified_accuracy", "val_certified_radius", "val_certified_accuracy"} <= set(history)

    scores = model.evaluate(x_test, y_test, batch_size=100, verbose=0, return_dict=True)
    logits = model.predict(x_test, verbose=0)
    assert_allclose(scores["certified_radius"], radius_by_hand(y_test, logits), rtol=1e-4)
    assert_allclose(scores["certified_accuracy"], accuracy_by_hand(y_test, logits, 0.1), atol=2 / 360)
    assert_allclose(scores["accuracy"], np.mean(logits.argmax(1) == y_test), rtol=1e-5)
    assert history["val_certified_radius"][-1] == pytest.approx(scores["certified_radius"], rel=1e-4)

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(x_test, y_test, batch_size=100, verbose=0, return_dict=True) == pytest.approx(
        scores, rel=1e-4
    )


def test_weights_of_examples_reach_weighted_metrics(digits):
    _, (x_test, y_test) = digits
    weights = np.linspace(0, 2, len(y_test)).astype("float32")
    model = plain_model()
    model.compile("adam", CertifiedMarginLoss(), weighted_metrics=[CertifiedRadius(), CertifiedAccuracy(0.05)])
    scores = model.evaluate(x_test, y_test, sample_weight=weights, verbose=0, return_dict=True)
    logits = model.predict(x_test, verbose=0)
    assert_allclose(scores["certified_radius"], radius_by_hand(y_test, logits, weights), rtol=1e-4)
    assert_allclose(scores["certified_accuracy"], accuracy_by_hand(y_test, logits, 0.05, weights), atol=5e-3)


def test_monitors_know_that_larger_is_better(digits):
    (images, labels), _ = digits
    model = plain_model()
    model.compile("adam", CertifiedMarginLoss(), metrics=[CertifiedRadius(), CertifiedAccuracy(0.1)])
    stoppers = [keras.callbacks.EarlyStopping(monitor=name) for name in ("certified_radius", "certified_accuracy")]
    model.fit(images[:32], labels[:32], verbose=0, callbacks=stoppers)
    for stopper in stoppers:
        assert stopper.monitor_op(1.0, 0.5)
