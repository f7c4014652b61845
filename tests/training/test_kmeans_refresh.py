import contextlib

import keras
import numpy as np
import pytest
import sklearn.neighbors
from numpy.testing import assert_allclose, assert_array_equal

from clustr_keras.training import kmeans_refresh
from clustr_keras.training.kmeans_refresh import KMeansRefresh, refresh
from clustr_keras.training.magnet_batches import MagnetBatches


@pytest.fixture
def plain(stand_in):
    """A model whose embedding is the image itself."""
    return lambda clusters_per_class, **kwargs: stand_in(
        (8, 8, 1), 10, clusters_per_class, layers=[keras.layers.Flatten()], **kwargs
    )


def head_of(model):
    return keras.ops.convert_to_numpy(model.head.centers), keras.ops.convert_to_numpy(model.head.variance)


def test_with_one_cluster_per_class_the_prediction_is_that_of_the_nearest_centroid(plain, digits):
    (x, y), (x_test, _) = digits
    model = plain(1)
    refresh(model, x, y)
    centroids = sklearn.neighbors.NearestCentroid().fit(x.reshape(len(x), -1), y)
    assert_array_equal(model.predict(x_test, verbose=0).argmax(-1), centroids.predict(x_test.reshape(len(x_test), -1)))


def test_more_clusters_classify_better(plain, digits):
    (x, y), (x_test, y_test) = digits

    def accuracy(clusters):
        model = plain(clusters)
        refresh(model, x, y)
        return np.mean(model.predict(x_test, verbose=0).argmax(-1) == y_test)

    assert accuracy(8) > accuracy(1) > 0.85


def test_centers_and_variance_are_those_of_the_embeddings(plain, digits):
    (x, y), _ = digits
    model = plain(2)
    found = refresh(model, x, y, max_iter=300)
    centers, variance = head_of(model)
    flat = x.reshape(len(x), -1).astype("float64")
    for cluster in range(20):
        assert_allclose(centers.reshape(20, -1)[cluster], flat[found.assignments == cluster].mean(axis=0), atol=1e-5)
    squares = ((flat[:, None] - centers[y]) ** 2).sum(-1)
    assert_allclose(variance, np.full((10, 2), squares.min(axis=-1).sum() / (len(x) - 1)), rtol=1e-5)


@pytest.mark.parametrize("batch_size", [7, 64, 10_000])
def test_neither_bytes_nor_the_size_of_batches_change_the_result(plain, digits, batch_size):
    (x, y), _ = digits
    x, y = np.rint(x[:300] * 255).astype("uint8"), y[:300]
    model = plain(2)
    expected = refresh(model, (x / 255).astype("float32"), y)
    found = refresh(model, x, y, batch_size=batch_size)
    assert_array_equal(found.assignments, expected.assignments)
    assert_allclose(found.centers, expected.centers, atol=1e-6)


def test_the_backbone_embeds_in_inference_mode_and_is_traced_once(stand_in, colors):
    traces = []

    class Norm(keras.layers.Layer):
        """Adds 100 in training mode."""

        def call(self, x, training=None):
            traces.append(training)
            return x + 100.0 if training else x

    images, labels = colors
    model = stand_in((4, 4, 1), 3, 2, layers=[keras.layers.Flatten(), Norm()])
    traces.clear()
    for _ in range(3):
        refresh(model, images, labels, batch_size=50)
    assert traces == [False]
    assert head_of(model)[0].max() < 1.0


def test_progress_is_shown_on_request(stand_in, colors, monkeypatch):
    shown = []

    @contextlib.contextmanager
    def bar(description, total):
        shown.append(total)
        yield shown.append

    monkeypatch.setattr(kmeans_refresh, "progress_bar", bar)
    model = stand_in((4, 4, 1), 3, 2)
    refresh(model, *colors, batch_size=50)
    assert shown == []
    refresh(model, *colors, batch_size=50, verbose=True)
    assert shown == [3, 1, 2, 3]


def test_low_precision_embeddings_make_finite_centers(stand_in, colors):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = stand_in((4, 4, 1), 3, 2)
        found = refresh(model, *colors)
    finally:
        keras.config.set_dtype_policy(policy)
    assert np.isfinite(found.centers).all()
    assert_array_equal(head_of(model)[0], found.centers)


def test_diverged_weights_are_told(stand_in, colors):
    model = stand_in((4, 4, 1), 3, 2)
    model.backbone.set_weights([np.full_like(weight, np.nan) for weight in model.backbone.get_weights()])
    with pytest.raises(ValueError, match="100% of the embeddings are not finite: training diverged"):
        refresh(model, *colors)


def test_ordinary_training_ends_with_the_centers_of_its_last_weights(stand_in, colors):
    images, labels = (colors[0] / 255).astype("float32"), colors[1]
    model = stand_in((4, 4, 1), 3, 2, run_eagerly=True)
    before = head_of(model)[0]
    model.fit(images, labels, epochs=3, verbose=0, callbacks=[KMeansRefresh((images, labels), seed=4)])
    kept = head_of(model)
    assert not np.allclose(kept[0], before)
    refresh(model, images, labels, seed=[4, 3])
    for ours, fresh in zip(kept, head_of(model), strict=True):
        assert_allclose(ours, fresh, rtol=1e-6)


def test_the_validation_of_an_epoch_sees_its_centers(stand_in, colors):
    class Watch(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.validated, self.begun = [], []

        def on_epoch_begin(self, epoch, logs=None):
            self.begun.append(head_of(self.model)[0])

        def on_test_begin(self, logs=None):
            self.validated.append(head_of(self.model)[0])

    images, labels = colors
    batches = MagnetBatches(images, labels, 3, clusters_per_batch=4, examples_per_cluster=5)
    model, watch = stand_in((4, 4, 1), 3, 2, rows=20, run_eagerly=True), Watch()
    model.fit(
        batches,
        epochs=3,
        verbose=0,
        validation_data=((images / 255).astype("float32"), labels),
        callbacks=[KMeansRefresh(batches), watch],
    )
    for epoch in range(2):
        assert_array_equal(watch.validated[epoch], watch.begun[epoch + 1])
        assert not np.allclose(watch.begun[epoch], watch.begun[epoch + 1])
    assert_array_equal(watch.validated[2], head_of(model)[0])


@pytest.mark.parametrize(
    ("every", "epochs", "expected"), [(1, 3, [0, 1, 2, 3]), (2, 4, [0, 2, 4]), (2, 3, [0, 2, 3]), (5, 2, [0, 2])]
)
@pytest.mark.parametrize("is_magnet", [False, True])
def test_it_refreshes_at_the_start_every_so_often_and_at_the_end(
    stand_in, colors, monkeypatch, every, epochs, expected, is_magnet
):
    refreshed = []

    def spy(*args, seed, **kwargs):
        refreshed.append(seed)
        return refresh(*args, seed=seed, **kwargs)

    monkeypatch.setattr(kmeans_refresh, "refresh", spy)
    images, labels = (colors[0] / 255).astype("float32"), colors[1]
    if is_magnet:
        data = MagnetBatches(images, labels, 3, clusters_per_batch=4, examples_per_cluster=5, steps_per_epoch=3)
        fit = (data,)
    else:
        data = fit = (images, labels)
    model = stand_in((4, 4, 1), 3, 2, rows=20, run_eagerly=True)
    model.fit(*fit, epochs=epochs, verbose=0, callbacks=[KMeansRefresh(data, every=every, seed=9)])
    assert refreshed == [[9, epoch] for epoch in expected]


def test_an_epoch_cut_short_ends_with_fresh_centers_too(stand_in, colors):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    batches = MagnetBatches(*colors, 3, clusters_per_batch=4, examples_per_cluster=5)
    model = stand_in((4, 4, 1), 3, 2, rows=20)
    model.fit(batches, epochs=2, verbose=0, callbacks=[KMeansRefresh(batches), Stop()])
    kept = head_of(model)
    refresh(model, *colors, seed=[0, 1])
    assert_allclose(kept[0], head_of(model)[0], rtol=1e-6)


@pytest.mark.parametrize("data", [np.zeros((3, 4, 4, 1)), [1, 2], (1, 2, 3)])
def test_data_of_another_kind_is_refused(data):
    with pytest.raises(ValueError, match=r"data must be MagnetBatches or a tuple \(images, labels\)"):
        KMeansRefresh(data)


@pytest.mark.parametrize("every", [0, 1.5])
def test_every_must_be_a_positive_integer(colors, every):
    with pytest.raises(ValueError, match=f"every must be an integer of at least 1; got {every}"):
        KMeansRefresh(colors, every=every)


def test_a_model_without_a_head_is_refused(colors):
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.compile(loss="mse")
    with pytest.raises(ValueError, match=r"Sequential has no backbone\. Use a ClustrClassifier"):
        model.fit(colors[0], np.zeros((120, 3)), verbose=0, callbacks=[KMeansRefresh(colors)])


def test_a_class_with_fewer_examples_than_clusters_is_refused(stand_in, colors):
    with pytest.raises(ValueError, match="class 2 has 1 examples, fewer than clusters_per_class=2"):
        refresh(stand_in((4, 4, 1), 3, 2), colors[0][:81], colors[1][:81])
