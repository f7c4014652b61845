import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from clustr_keras import CertifiedAccuracy, ClustrClassifier, lipschitz
from clustr_keras.backbones import lipschitz_mlp


def new_classifier(widths=(32, 16), **kwargs):
    return ClustrClassifier(lipschitz_mlp((8, 8, 1), widths), **{"num_classes": 10, **kwargs})


def plain_backbone(*layers):
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), *layers])


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
