import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from clustr_keras import CertifiedAccuracy, CertifiedMarginLoss, ClustrClassifier, lipschitz
from clustr_keras.backbones import lipschitz_mlp
from clustr_keras.consistency import QTRADES, TRADES, EmbeddingConsistency, FreeAdversarialTraining
from clustr_keras.losses import CenterMagnetLoss, MagnetLoss, center_magnet_losses, magnet_losses
from clustr_keras.training import KMeansRefresh, MagnetBatches


def new_classifier(widths=(32, 16), **kwargs):
    return ClustrClassifier(lipschitz_mlp((8, 8, 1), widths), **{"num_classes": 10, **kwargs})


def plain_backbone(*layers):
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), *layers])


@pytest.fixture
def small(digits):
    """200 images and labels."""
    (images, labels), _ = digits
    return images[:200], labels[:200]


def test_certify_agrees_with_predict_and_evaluate(classifier, digits):
    _, (images, labels) = digits
    certificate = classifier.certify(images, method="union")
    logits = classifier.predict(images, verbose=0)
    assert_array_equal(certificate.class_ids, logits.argmax(-1))
    assert_allclose(certificate.radius, logits.max(-1), atol=1e-4)
    assert (certificate.certified_radius <= certificate.radius).all()
    assert_array_equal(certificate.nearest_cluster // 2, certificate.class_ids)
    assert certificate.accuracy_at(0.0, labels) > 0.9
    assert certificate.accuracy_at(0.2, labels) > 0.6
    assert certificate.class_ids.dtype == np.int64
    assert certificate.certified_radius.dtype == np.float32


def test_a_wrong_answer_is_never_certified_accurate(classifier, digits):
    _, (images, labels) = digits
    certificate = classifier.certify(images)
    assert certificate.accuracy_at(0.0, (certificate.class_ids + 1) % 10) == 0.0
    expected = np.mean((certificate.class_ids == labels) & (certificate.certified_radius >= 0.3))
    assert certificate.accuracy_at(0.3, labels) == expected


def test_a_saved_and_loaded_model_gives_the_same_answers(classifier, digits, tmp_path):
    _, (images, labels) = digits
    classifier.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    before, after = classifier.certify(images), loaded.certify(images)
    assert_array_equal(after.class_ids, before.class_ids)
    assert_array_equal(after.certified_radius, before.certified_radius)
    assert loaded.class_names == classifier.class_names
    assert loaded.evaluate(images, labels, verbose=0) == classifier.evaluate(images, labels, verbose=0)
    loaded.fit(images, labels, epochs=1, verbose=0)  # it comes back compiled


def test_certifying_adds_nothing_to_what_is_saved(classifier, digits, tmp_path):
    fresh = ClustrClassifier.from_config(classifier.get_config())
    classifier.certify(digits[1][0][:5])
    assert [v.path for v in classifier.weights] != []
    assert len(classifier.weights) == len(fresh.weights)


def test_the_bound_follows_the_weights(small):
    images, _ = small
    model = ClustrClassifier(plain_backbone(keras.layers.Dense(16)), 10)
    assert not model.head.is_lipschitz_known
    first = model.certify(images)
    kernel = model.backbone.layers[-1].kernel
    assert_allclose(first.lipschitz_bound, np.linalg.norm(np.asarray(kernel), 2), rtol=1e-6)
    kernel.assign(2.0 * kernel)
    second = model.certify(images)
    assert_allclose(second.lipschitz_bound, 2.0 * first.lipschitz_bound, rtol=1e-6)
    assert_allclose(float(model.head.lipschitz), second.lipschitz_bound)


def test_a_moved_center_moves_the_certificate(small):
    images, _ = small
    model = new_classifier()
    before = model.certify(images).radius
    model.head.centers.assign(model.head.centers + np.eye(10, 16)[:, None])
    after = model.certify(images).radius
    assert not np.allclose(before, after)
    assert_allclose(after, model.predict(images, verbose=0).max(-1), atol=1e-4)


def test_weights_that_come_back_bring_no_stale_proof(small, tmp_path):
    images, _ = small
    model = ClustrClassifier(plain_backbone(keras.layers.Dense(16, use_bias=False)), 10)
    kernel = np.eye(64, 16)
    model.backbone.set_weights([10.0 * kernel])
    first = model.certify(images)
    model.save_weights(tmp_path / "tenfold.weights.h5")
    model.backbone.set_weights([kernel])
    model.certify(images)
    model.load_weights(tmp_path / "tenfold.weights.h5")
    again = model.certify(images)
    assert_allclose(again.lipschitz_bound, 10.0, rtol=1e-6)
    assert_array_equal(again.certified_radius, first.certified_radius)
    assert_array_equal(again.class_ids, model.predict(images, verbose=0).argmax(-1))
    model.head.lipschitz.assign(0.01)
    model.certify(images)
    assert_allclose(float(model.head.lipschitz), 10.0, rtol=1e-6)


def test_another_backbone_or_another_setting_brings_no_stale_proof(small):
    images, _ = small
    model = ClustrClassifier(plain_backbone(keras.layers.Rescaling(1.0), keras.layers.Dense(16)), 10)
    before = model.certify(images)
    model.backbone.layers[1].scale = 10.0
    assert_allclose(model.certify(images).lipschitz_bound, 10.0 * before.lipschitz_bound, rtol=1e-6)
    model.backbone = plain_backbone(keras.layers.Dense(16))
    assert_array_equal(model.certify(images).class_ids, np.argmax(model(images), axis=-1))


def test_certifying_within_fit_leaves_what_it_trains_with(small):
    images, labels = small
    model = ClustrClassifier(plain_backbone(keras.layers.Dense(16)), 10)
    model.compile("adam")
    watch = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: model.certify(images[:5]))
    model.fit(images, labels, epochs=2, verbose=0, callbacks=[watch])
    assert not model.head.is_lipschitz_known


def test_batches_by_hand_follow_the_same_rule(small):
    images, labels = small
    model = ClustrClassifier(plain_backbone(keras.layers.Dense(16)), 10)
    model.compile(keras.optimizers.SGD(1.0), metrics=[CertifiedAccuracy(1e-3)])
    model.evaluate(images, labels, verbose=0)
    model.train_on_batch(images, labels)
    assert not model.head.is_lipschitz_known
    model.test_on_batch(images, labels)
    assert_allclose(float(model.head.lipschitz), lipschitz.bound(model.backbone).value)


def test_evaluate_proves_the_bound_of_the_present_weights(small):
    images, labels = small
    model = ClustrClassifier(plain_backbone(keras.layers.Dense(16)), 10)
    model.compile("adam", metrics=[CertifiedAccuracy(1e-3)])
    model.evaluate(images, labels, verbose=0)
    expected = lipschitz.bound(model.backbone).value
    assert_allclose(float(model.head.lipschitz), expected)
    model.fit(images, labels, epochs=2, verbose=0, validation_data=(images, labels))
    assert not model.head.is_lipschitz_known, "a bound of other weights must not outlive them"
    model.evaluate(images, labels, verbose=0)
    assert_allclose(float(model.head.lipschitz), lipschitz.bound(model.backbone).value)
    assert float(model.head.lipschitz) != expected


def test_training_a_backbone_that_is_one_lipschitz_runs_at_one(small):
    images, labels = small
    model = new_classifier()
    assert float(model.head.lipschitz) == 1.0
    model.certify(images)
    assert 1.0 <= float(model.head.lipschitz) <= 1.0 + 1e-5
    seen = []
    model.compile("adam")

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(float(self.model.head.lipschitz))

    model.fit(images, labels, epochs=1, verbose=0, callbacks=[Watch()])
    assert set(seen) == {1.0}


def test_wild_weights_are_certified_with_their_true_bound(small):
    images, _ = small
    model = new_classifier()
    rng = np.random.default_rng(0)
    model.backbone.set_weights([rng.normal(size=w.shape) for w in model.backbone.get_weights()])
    certificate = model.certify(images)
    kernels = [layer.kernel for layer in model.backbone.layers if hasattr(layer, "raw_kernel")]
    norm = np.prod([np.linalg.norm(np.asarray(kernel, "float64"), 2) for kernel in kernels])
    assert norm <= certificate.lipschitz_bound <= norm * (1.0 + 1e-4)
    assert_array_equal(certificate.class_ids, model.predict(images, verbose=0).argmax(-1))


def test_a_backbone_without_a_bound_evaluates_but_does_not_certify(small):
    images, labels = small
    model = ClustrClassifier(plain_backbone(keras.layers.Dense(16), keras.layers.LayerNormalization(name="odd")), 10)
    model.compile("adam", metrics=["accuracy", CertifiedAccuracy(1e-6)])
    model.fit(images, labels, epochs=1, verbose=0)
    assert model.evaluate(images, labels, verbose=0, return_dict=True)["certified_accuracy"] == 0.0
    with pytest.raises(ValueError, match="LayerNormalization 'odd'"):
        model.certify(images)


def test_without_a_rounding_analysis_no_radius_is_called_certified(small):
    images, _ = small
    model = ClustrClassifier(plain_backbone(keras.layers.Dense(16, activation="tanh")), 10)
    certificate = model.certify(images)
    assert certificate.certified_radius is None
    assert (certificate.radius > 0).any()
    assert certificate.accuracy_at(0.0, certificate.class_ids) == 1.0
    with pytest.raises(ValueError, match="there is no certified radius"):
        certificate.accuracy_at(0.01, certificate.class_ids)


def test_nearest_never_exceeds_union(classifier, digits):
    _, (images, _) = digits
    nearest, union = classifier.certify(images, method="nearest"), classifier.certify(images)
    assert (nearest.certified_radius <= union.certified_radius).all()
    assert_array_equal(nearest.class_ids, union.class_ids)
    with pytest.raises(ValueError, match="method must be one of"):
        classifier.certify(images, method="best")


def test_embed_gives_the_backbones_output(classifier, digits):
    _, (images, _) = digits
    assert_allclose(classifier.embed(images[:9]), classifier.backbone(images[:9]), atol=1e-5)


def test_data_sets_are_taken_as_well_as_arrays(small):
    tf = pytest.importorskip("tensorflow")
    images, labels = small
    model = new_classifier()
    model.compile("adam")
    model.fit(tf.data.Dataset.from_tensor_slices((images, labels)).batch(50), epochs=1, verbose=0)
    by_array = model.certify(images)
    by_data_set = model.certify(tf.data.Dataset.from_tensor_slices(images).batch(50))
    assert_array_equal(by_data_set.class_ids, by_array.class_ids)


BAD_DATA = [
    (lambda x, y: (x, np.where(y == 3, 12, y)), "labels must lie in 0..9 for num_classes=10; got 12 at index"),
    (lambda x, y: (x, y - 1), "got -1 at index"),
    (lambda x, y: (x, y[:-1]), "199 labels, 200 images"),
    (lambda x, y: (x, np.eye(10)[y]), "looks one-hot"),
    (lambda x, y: (x * 255, y), "must be finite and lie in"),
    (lambda x, y: (x - 0.5, y), "must be finite and lie in"),
    (lambda x, y: (np.where(x > 0.5, np.nan, x), y), "must be finite and lie in"),
    (lambda x, y: ((x * 255).astype("uint8"), y), "Divide 8-bit images by 255"),
    (lambda x, y: (x[:, :7], y), r"must have shape \[B, 8, 8, 1\]; got \(200, 7, 8, 1\)"),
    (lambda x, y: (x[..., 0], y), r"must have shape \[B, 8, 8, 1\]"),
    (lambda x, y: (x[:0], y[:0]), "at least one example"),
    (lambda x, y: (x, None), "labels are missing"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD_DATA)
@pytest.mark.parametrize("place", ["training", "validation"])
def test_bad_data_is_refused_before_training(small, spoil, message, place):
    model = new_classifier()
    model.compile("adam")
    before = model.get_weights()
    bad = spoil(*small)
    train, validation = (bad, None) if place == "training" else (small, bad)
    with pytest.raises(ValueError, match=message):
        model.fit(*train, validation_data=validation, epochs=1, verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        assert_array_equal(old, new)


def test_a_bad_or_empty_data_set_is_refused_before_training(small):
    tf = pytest.importorskip("tensorflow")
    images, labels = small
    model = new_classifier()
    model.compile("adam")
    good = tf.data.Dataset.from_tensor_slices((images, labels)).batch(50)
    for data, message in (
        (good.map(lambda x, y: (x, y + 10)), "labels must lie in"),
        (good.map(lambda x, y: (2.0 * x + 1.0, y)), "must be finite and lie in"),
        (good.take(0), "the data set is empty"),
        (good.map(lambda x, y: x), r"must give \(images, labels\)"),
        (None, "no training data"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(data, epochs=1, verbose=0)


def test_embeddings_that_are_not_finite_are_refused_before_training(small):
    model = new_classifier()
    model.compile("adam")
    model.backbone.layers[-1].bias.assign(np.full(16, np.inf))
    with pytest.raises(ValueError, match="embeddings of the first images are not finite"):
        model.fit(*small, epochs=1, verbose=0)


@pytest.mark.parametrize("spoil", [lambda x: x * 2 + 1, lambda x: x * np.nan, lambda x: x[:, :5], lambda x: x[:0]])
def test_certify_refuses_what_is_not_an_image(classifier, small, spoil):
    with pytest.raises(ValueError, match="images must"):
        classifier.certify(spoil(small[0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes must be an integer of at least 2"),
        ({"clusters_per_class": 0}, "clusters_per_class must be an integer of at least 1; got 0"),
        ({"class_names": ["a", "b"]}, "expected 10 class names; got 2"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        new_classifier(**arguments)


def test_centers_that_are_not_finite_are_refused(small):
    model = new_classifier()
    model.head.centers.assign(np.full((10, 1, 16), np.nan))
    with pytest.raises(ValueError, match="cluster centers hold a NaN"):
        model.certify(small[0])


def test_tensors_are_checked_as_arrays_are(classifier, small):
    with pytest.raises(ValueError, match="must be finite and lie in"):
        classifier.certify(keras.ops.convert_to_tensor(small[0] * 2))


def test_a_backbone_that_is_not_built_or_not_flat_is_refused():
    with pytest.raises(ValueError, match=r"must be a built keras\.Model"):
        ClustrClassifier(keras.Sequential([keras.layers.Dense(3)]), 10)
    with pytest.raises(ValueError, match=r"takes embeddings \[B, D\]"):
        ClustrClassifier(keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Dense(3)]), 10)


def test_the_default_method_is_exact_where_it_pays(small):
    images, _ = small
    for clusters, method in ((1, "union"), (2, "exact"), (4, "exact"), (5, "union")):
        model = new_classifier(clusters_per_class=clusters)
        assert model.certifier().method == method
        by_default, by_name = model.certify(images), model.certify(images, method=method)
        assert_array_equal(by_default.certified_radius, by_name.certified_radius)


def test_the_radii_are_ordered_by_method(small):
    images, _ = small
    # Few classes of many clusters in few dimensions: several own clusters border on the nearest rival.
    model = new_classifier(widths=(32, 3), num_classes=3, clusters_per_class=4)
    embeddings = model.embed(images)
    spread = 2 * embeddings.std(axis=0)
    model.head.centers.assign(np.random.default_rng(0).normal(embeddings.mean(axis=0), spread, (3, 4, 3)))
    nearest, union, exact = (model.certify(images, method=name) for name in ("nearest", "union", "exact"))
    for lower, upper in ((nearest, union), (union, exact)):
        assert (lower.radius <= upper.radius * (1 + 1e-6)).all()
        assert (lower.certified_radius <= upper.certified_radius + 1e-5).all()
        assert (upper.radius > lower.radius + 1e-4).any()
        assert_array_equal(lower.class_ids, upper.class_ids)


def test_soft_gives_the_soft_class_and_certifies_nothing(small):
    images, _ = small
    model = new_classifier(clusters_per_class=3)
    rng = np.random.default_rng(0)
    model.head.centers.assign(model.embed(images)[rng.permutation(200)[:30]].reshape(10, 3, 16))
    model.head.variance.assign(np.full((10, 3), 4.0))
    soft = model.certify(images, method="soft")
    squared = ((model.embed(images)[:, None, None].astype("float64") - np.asarray(model.head.centers)) ** 2).sum(-1)
    assert_array_equal(soft.class_ids, np.exp(-squared / 8.0).sum(-1).argmax(-1))
    assert (soft.class_ids != model.certify(images).class_ids).any()
    assert soft.certified_radius is None
    assert (soft.radius > 0).all()
    model.head.variance.assign(np.full((10, 3), 0.1))
    assert not np.array_equal(model.certify(images, method="soft").radius, soft.radius)
    model.head.variance.assign(np.linspace(1.0, 2.0, 30).reshape(10, 3))
    with pytest.raises(ValueError, match=r"one variance for all clusters; got values from 1 to 2"):
        model.certify(images, method="soft")


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
