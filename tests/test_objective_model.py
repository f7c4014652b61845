import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from clustr_keras import CertifiedMarginLoss, ClustrClassifier
from clustr_keras.consistency import QTRADES, TRADES, EmbeddingConsistency, FreeAdversarialTraining
from clustr_keras.losses import CenterMagnetLoss, MagnetLoss, center_magnet_losses, magnet_losses
from clustr_keras.training import KMeansRefresh, MagnetBatches


def smooth_classifier(*layers, regularizer=None, **kwargs):
    """Embeds 3x3 images in 3 dimensions, for 4 classes with 2 clusters; `layers` stand before the last one."""
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(8, "tanh", kernel_regularizer=regularizer, **kwargs)
    layers = [keras.layers.Flatten(), hidden, *layers, keras.layers.Dense(3, **kwargs)]
    model = ClustrClassifier(keras.Sequential([keras.Input((3, 3, 1)), *layers]), 4, 2, **kwargs)
    model.head.centers.assign(np.random.default_rng(0).normal(size=(4, 2, 3)))
    return model


@pytest.fixture
def tiny():
    """24 images of 3x3 pixels, labels, and clusters."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 6)
    images = 0.4 * rng.uniform(size=(24, 3, 3, 1)) + 0.2 * labels[:, None, None, None]
    order = rng.permutation(24)
    return images[order].astype("float32"), labels[order], 2 * labels[order] + rng.integers(0, 2, 24)


def loss_in_training(model, images, labels, sample_weight=None, **kwargs):
    """The loss that one step of rate 0 reports."""
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True, **kwargs)
    return model.train_on_batch(images, labels, sample_weight, return_dict=True)["loss"]


def term_of(model, term, images, step=0):
    """Mean of a consistency term."""
    return float(
        np.mean(
            term(model, keras.ops.convert_to_tensor(images), model.backbone(images), keras.ops.convert_to_tensor(step))
        )
    )


LOSSES = [CertifiedMarginLoss(), CenterMagnetLoss(alpha=2.0), MagnetLoss(alpha=2.0)]


@pytest.mark.parametrize("loss", LOSSES)
def test_training_adds_the_terms_to_the_loss_and_evaluation_does_not(tiny, loss):
    images, labels, _ = tiny
    model, term = smooth_classifier(), QTRADES(3.0, eps=0.1)
    plain = loss_in_training(model, images, labels, loss=loss)
    cross_entropy = loss_in_training(model, images, labels, loss=loss, xent_lambda=0.5) - plain
    log_posterior = np.asarray(model.head.log_posterior(model.backbone(images)))
    assert_allclose(cross_entropy, -0.5 * log_posterior[np.arange(24), labels].mean(), rtol=1e-4)
    step = int(model.training_step)
    everything = loss_in_training(model, images, labels, loss=loss, consistency=term, xent_lambda=0.5)
    assert_allclose(everything, plain + cross_entropy + term_of(model, term, images, step), rtol=1e-5)
    assert int(model.training_step) == step + 1
    # The head's logits are in other units in training and in evaluation, where the bound is known.
    by_evaluation = model.evaluate(images, labels, batch_size=24, verbose=0, return_dict=True)["loss"]
    model.compile("adam", loss=loss)
    without_terms = model.evaluate(images, labels, batch_size=24, verbose=0, return_dict=True)["loss"]
    assert_allclose(by_evaluation, without_terms, rtol=1e-6)
    assert int(model.training_step) == step + 1


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loop_of_ones_own_gets_the_terms_as_well(tiny, loss):
    images, labels, _ = tiny
    model = smooth_classifier()
    expected = loss_in_training(model, images, labels, loss=loss, consistency=QTRADES(eps=0.1))
    model.training_step.assign(0)
    logits = model(images, training=True)
    assert_allclose(model.compute_loss(images, labels, logits, training=True), expected, rtol=1e-5)


@pytest.mark.parametrize("consistency", [None, QTRADES(eps=0.1)])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_of_layers_and_regularizers_count_once(tiny, loss, consistency):
    images, labels, _ = tiny

    def total(model):
        return loss_in_training(model, images, labels, loss=loss, consistency=consistency)

    plain, activity = smooth_classifier(), keras.layers.ActivityRegularization(l2=0.3)
    with_more = smooth_classifier(activity, regularizer=keras.regularizers.L2(0.7))
    _, hidden = with_more.backbone.layers[:2]
    expected = (
        0.7 * np.sum(np.square(hidden.kernel))
        + 0.3 * np.sum(np.square(with_more.backbone.layers[1](with_more.backbone.layers[0](images)))) / 24
    )
    assert expected > 1.0
    assert_allclose(total(with_more) - total(plain), expected, rtol=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_terms_skip_rows_of_weight_zero(tiny, loss):
    images, labels, _ = tiny
    model, term = smooth_classifier(), QTRADES(3.0, eps=0.1)
    weights = np.repeat([1.0, 0.0], [10, 14])
    plain = loss_in_training(model, images, labels, weights, loss=loss)
    model.training_step.assign(0)
    with_terms = loss_in_training(model, images, labels, weights, loss=loss, consistency=term)
    assert_allclose(with_terms - plain, term_of(model, term, images[:10]), rtol=1e-4)


def test_fit_trains_with_every_term_and_validates_without(tiny):
    images, labels, _ = tiny
    model = smooth_classifier(keras.layers.BatchNormalization())
    model.compile(
        keras.optimizers.Adam(0.02), loss=MagnetLoss(alpha=1.0), consistency=QTRADES(2.0, eps=0.05), xent_lambda=1.0
    )
    history = model.fit(
        images, labels, batch_size=8, epochs=15, verbose=0, validation_data=(images, labels), validation_batch_size=24
    ).history
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    assert history["accuracy"][-1] > 0.6
    squares = ((model.embed(images)[:, None, None] - np.asarray(model.head.centers)) ** 2).sum(-1)
    assert_allclose(history["val_loss"][-1], np.mean(center_magnet_losses(squares, labels, alpha=1.0)[0]), rtol=1e-4)
    assert_allclose(history["val_accuracy"][-1], np.mean(squares.min(-1).argmin(-1) == labels))
    assert int(model.training_step) == 45


def test_compiled_by_xla_and_from_a_data_set_it_trains_to_the_same_weights(tiny):
    tf = pytest.importorskip("tensorflow")
    images, labels, _ = tiny
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(8)
    models = []
    for data, settings in (((batches,), {"jit_compile": True}), ((images, labels), {"run_eagerly": True})):
        model = smooth_classifier(keras.layers.BatchNormalization())
        model.compile(keras.optimizers.SGD(0.05), consistency=QTRADES(eps=0.1), xent_lambda=0.5, **settings)
        model.fit(*data, batch_size=8 if len(data) == 2 else None, epochs=2, shuffle=False, verbose=0)
        models.append(model)
    assert int(models[0].training_step) == 6
    for by_xla, eager in zip(*(model.trainable_variables for model in models), strict=True):
        assert_allclose(by_xla, eager, atol=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_trains_without_a_nan(tiny, loss):
    images, labels, _ = tiny
    model = smooth_classifier(keras.layers.BatchNormalization(dtype="mixed_float16"), dtype="mixed_float16")
    term = TRADES(eps=0.1, steps=2)
    model.compile(keras.optimizers.SGD(1e-3), loss=loss, consistency=term, xent_lambda=0.5, run_eagerly=True)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    before = np.array(model.backbone.layers[1].kernel)
    for _ in range(6):
        assert np.isfinite(model.train_on_batch(images, labels, return_dict=True)["loss"])
    assert int(model.optimizer.iterations) >= 2
    assert np.isfinite(model.backbone.layers[1].kernel).all()
    assert np.abs(model.backbone.layers[1].kernel - before).max() > 1e-5


class Recorded(MagnetBatches):
    """Keeps the batches that were asked for."""

    def __getitem__(self, step):
        batch = super().__getitem__(step)
        self.made = [*getattr(self, "made", []), batch]
        return batch


def test_batches_of_clusters_get_their_losses_back_in_order(tiny):
    images, labels, _ = tiny
    model = smooth_classifier()
    model.compile(keras.optimizers.SGD(0.0), loss=MagnetLoss(alpha=2.0), consistency=EmbeddingConsistency(eps=0.1))
    batches = Recorded(images, labels, 4, 2, clusters_per_batch=3, examples_per_cluster=4, steps_per_epoch=2)
    history = model.fit(batches, callbacks=[KMeansRefresh(batches)], verbose=0).history
    images_of_batch, y, weights = batches.made[-1]
    expected, _ = magnet_losses(model.backbone(images_of_batch), y[:, 0], y[:, 1], alpha=2.0)
    assert len(np.unique(expected)) > 3
    assert_allclose(model.example_losses, expected, atol=1e-5)
    assert (np.asarray(model.example_losses)[weights == 0] == 0.0).all()
    assert np.isfinite(history["loss"][0])
    # Plain labels train that model as well.
    model.fit(images, labels, verbose=0)


def test_a_loaded_model_trains_on_as_the_saved_one_would(tiny, tmp_path):
    images, labels, _ = tiny
    model = smooth_classifier()
    term = QTRADES(2.0, 0.1, scores="logits", paper_gradient=True, seed=3)
    model.compile(
        keras.optimizers.Adam(0.01), loss=MagnetLoss(alpha=3.0), consistency=term, xent_lambda=0.5, run_eagerly=True
    )
    model.fit(images, labels, batch_size=8, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert int(loaded.training_step) == 3
    for each in (model, loaded):
        each.fit(images, labels, batch_size=8, shuffle=False, verbose=0)
    assert int(loaded.training_step) == 6
    for ours, theirs in zip(model.trainable_variables, loaded.trainable_variables, strict=True):
        assert_array_equal(ours, theirs)
    model.training_step.assign(3)
    model.fit(images, labels, batch_size=8, shuffle=False, verbose=0)
    loaded.fit(images, labels, batch_size=8, shuffle=False, verbose=0)
    assert not np.array_equal(model.head.centers, loaded.head.centers), "the noise depends on the step"


def test_frozen_centers_come_back_frozen_and_their_optimizer_whole(tiny, tmp_path):
    images, labels, _ = tiny
    model = smooth_classifier()
    model.head.trainable = False
    model.compile(keras.optimizers.Adam(0.01), loss=MagnetLoss(), run_eagerly=True)
    model.train_on_batch(images, labels)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert not loaded.head.trainable
    for ours, theirs in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        assert_array_equal(ours, theirs)
    loaded.train_on_batch(images, labels)
    assert_array_equal(loaded.head.centers, model.head.centers)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="free training needs TensorFlow")
def test_free_training_survives_saving(tiny, tmp_path):
    images, labels, _ = tiny
    model = smooth_classifier()
    model.compile(keras.optimizers.SGD(0.01), free=FreeAdversarialTraining(24, 0.05, 2), run_eagerly=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        each.train_on_batch(images, labels)
        assert int(each.optimizer.iterations) == 2
    for ours, theirs in zip(model.trainable_variables, loaded.trainable_variables, strict=True):
        assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"xent_lambda": -1.0}, "xent_lambda must be at least 0; got -1"),
        ({"consistency": "qtrades"}, r"consistency must be a term of clustr_keras\.consistency or None; got 'qtrades'"),
        ({"free": 8}, "free must be FreeAdversarialTraining or None; got 8"),
    ],
)
def test_compile_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        smooth_classifier().compile("adam", **arguments)
