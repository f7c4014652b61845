import keras
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from clustr_keras.data import CropAndFlip, batch_generator
from clustr_keras.training.magnet_batches import MagnetBatches


@pytest.fixture
def batches_of(colors):
    """Makes batches of the colors, with clusters and in an epoch that has begun unless told otherwise."""

    def make(is_begun=True, **arguments):
        images, labels = colors
        settings = {"clusters_per_batch": 4, "examples_per_cluster": 5, "steps_per_epoch": 6, **arguments}
        batches = MagnetBatches(images, labels, num_classes=3, **settings)
        if is_begun:
            rng = np.random.default_rng(0)
            batches.assign(2 * labels + rng.integers(0, 2, len(labels)), rng.normal(size=(3, 2, 4)))
            batches.begin_epoch(0)
        return batches

    return make


def rows_of(images):
    """Which images these are: pixel (0, 0) holds the number."""
    return np.rint(np.asarray(images)[:, 0, 0, 0] * 255).astype(int)


def run_epoch(batches, epoch, loss=lambda rows: np.cos(rows) ** 2):
    """The images of an epoch in a loop of one's own, with losses that are some function of the images."""
    batches.begin_epoch(epoch)
    seen = []
    for step in range(len(batches)):
        images, _, weights = batches[step]
        seen.append(images)
        batches.add_losses(step, (loss(rows_of(images)) * weights).astype("float32"))
    return np.stack(seen)


def test_images_classes_and_clusters_go_together(batches_of, colors):
    batches = batches_of()
    images, y_true, weights = batches[0]
    rows = rows_of(images)
    assert (images.dtype, y_true.dtype, weights.dtype) == ("float32", "int32", "float32")
    assert_array_equal(images, colors[0][rows] / np.float32(255))
    assert_array_equal(y_true[:, 0], colors[1][rows])
    assert_array_equal(y_true[:, 1], batches.get_state()["assignments"][rows])
    assert_array_equal(y_true[:, 1], np.repeat(y_true[::5, 1], 5))
    assert_array_equal(weights, 1)
    assert len(set(rows)) == 20


def test_floats_and_bytes_make_the_same_batch(batches_of, colors):
    bytes_, floats = batches_of(), batches_of()
    floats.images = (colors[0] / 255).astype("float32")
    assert_array_equal(bytes_[1][0], floats[1][0])


def test_small_clusters_leave_padding_with_real_images(batches_of, colors):
    batches = batches_of(is_begun=False, examples_per_cluster=15)
    labels = colors[1]
    assignments = 2 * labels + (np.arange(120) % 40 < 3)  # every second cluster has 3 examples
    assignments[labels == 2] = 4  # cluster 5 is empty
    batches.assign(assignments, np.arange(24.0).reshape(3, 2, 4))
    batches.begin_epoch(0)
    for step in range(3):
        images, y_true, weights = batches[step]
        clusters = y_true[:, 1]
        real = int(weights.sum())
        assert real < 60
        assert 5 not in clusters
        for cluster in set(clusters[:real]):
            assert np.sum(clusters == cluster) == min(15, np.sum(assignments == cluster))
        assert_array_equal(weights, np.arange(60) < real)
        assert_array_equal(clusters[real:], -1)
        assert_array_equal(y_true[real:, 0], np.resize(y_true[:real, 0], 60)[real:])
        rows = rows_of(images)
        assert_array_equal(rows[real:], np.resize(rows[:real], 60)[real:])


def test_an_epoch_covers_as_many_rows_as_there_are_examples(batches_of):
    assert len(batches_of(steps_per_epoch=None)) == 6
    assert len(batches_of(steps_per_epoch=None, examples_per_cluster=8)) == 4
    assert len(batches_of(steps_per_epoch=11)) == 11


def test_a_batch_is_augmented_by_the_generator_of_seed_epoch_and_step(batches_of):
    plain, augmented = batches_of(seed=5), batches_of(seed=5, augmentation=CropAndFlip(1))
    for batches in (plain, augmented):
        batches.begin_epoch(3)
    expected = CropAndFlip(1)(plain[1][0], batch_generator(5, 3, 1))
    assert_array_equal(augmented[1][0], expected)
    assert not np.array_equal(expected, plain[1][0])


def test_batches_are_the_same_whenever_and_in_whatever_order_they_are_asked_for(batches_of):
    once, again = batches_of(), batches_of()
    forward = [once[step] for step in (0, 1, 2)]
    backward = [again[step] for step in (2, 1, 0, 2)]
    for a, b in zip(forward, [backward[2], backward[1], backward[3]], strict=True):
        assert_array_equal(a[0], b[0])
        assert_array_equal(a[1], b[1])


def test_seed_and_epoch_change_the_batches(batches_of):
    first = run_epoch(batches_of(), 0)
    assert_array_equal(first, run_epoch(batches_of(), 0))
    assert not np.array_equal(first, run_epoch(batches_of(), 1))
    assert not np.array_equal(first, run_epoch(batches_of(seed=1), 0))


def test_losses_change_the_batches_that_follow_the_lag(batches_of):
    for lag in (0, 2):
        one = run_epoch(batches_of(lag=lag), 0)
        other = run_epoch(batches_of(lag=lag), 0, loss=lambda rows: np.where(rows < 7, 9.0, 0.0))
        differs = [not np.array_equal(a, b) for a, b in zip(one, other, strict=True)]
        assert not any(differs[: 1 + lag])
        assert any(differs[1 + lag :])


def test_a_state_brings_the_batches_of_the_next_epoch(batches_of, tmp_path):
    batches = batches_of()
    run_epoch(batches, 0)
    np.savez(tmp_path / "state.npz", **batches.get_state())
    expected = run_epoch(batches, 1)
    resumed = batches_of(is_begun=False)
    with np.load(tmp_path / "state.npz") as state:
        resumed.set_state(state)
    assert_array_equal(run_epoch(resumed, 1), expected)
    fresh = batches_of()
    assert not np.array_equal(run_epoch(fresh, 1), expected)  # without the losses of epoch 0


def test_a_state_taken_inside_an_epoch_leaves_the_epoch_as_it_is(batches_of):
    batches = batches_of(lag=2)
    batches[0]
    batches.add_losses(0, np.arange(20, dtype="float32"))
    state = batches.get_state()
    assert state["has_loss"].sum() == 20
    assert state["clusters_epoch"] == -1
    one = batches[1][0], batches[2][0]
    other = batches_of(lag=2)
    assert_array_equal(one, (other[1][0], other[2][0]))


def test_the_state_of_batches_without_clusters_has_none(batches_of):
    state = batches_of(is_begun=False).get_state()
    assert set(state) == {"example_losses", "has_loss"}
    batches = batches_of(is_begun=False)
    batches.set_state(state)
    assert not batches.has_clusters


def test_a_state_of_other_data_is_refused(batches_of, colors):
    state = batches_of().get_state()
    other = MagnetBatches(colors[0][:90], colors[1][:90] // 2, 2, clusters_per_batch=3)
    with pytest.raises(ValueError, match="the state is of 120 examples, these batches have 90"):
        other.set_state(state)


def test_before_there_are_clusters_nothing_is_drawn(batches_of):
    batches = batches_of(is_begun=False)
    for ask in (lambda: batches[0], lambda: batches.begin_epoch(0)):
        with pytest.raises(RuntimeError, match=r"no clusters yet.*callbacks=\[KMeansRefresh\(batches\)\]"):
            ask()


def test_before_an_epoch_begins_and_after_it_ends_nothing_is_drawn(batches_of):
    batches = batches_of()
    run_epoch(batches, 0)
    with pytest.raises(RuntimeError, match="no epoch has begun"):
        batches[0]


def test_a_loop_of_ones_own_that_brings_no_losses_is_told(batches_of):
    batches = batches_of()
    with pytest.raises(RuntimeError, match="batch 3 depends on the losses of step 0, and those of 0 steps"):
        list(batches)


def test_there_is_no_batch_after_the_last(batches_of):
    for step in (-1, 6):
        with pytest.raises(IndexError, match=f"step must lie in 0..5; got {step}"):
            batches_of()[step]


@pytest.mark.parametrize("step", [0, 2])
def test_losses_out_of_turn_are_refused(batches_of, step):
    batches = batches_of()
    for done in (0, 1):
        batches[done]
    batches.add_losses(0, np.zeros(20, "float32"))
    with pytest.raises(RuntimeError, match=f"losses of step {step} arrived out of turn"):
        batches.add_losses(step, np.zeros(20, "float32"))


def test_losses_of_batches_that_nobody_took_are_refused(batches_of):
    with pytest.raises(RuntimeError, match="Pass the same batches to fit and to KMeansRefresh"):
        batches_of().add_losses(0, np.zeros(20, "float32"))


def test_there_must_be_a_loss_for_each_row(batches_of):
    batches = batches_of()
    batches[0]
    with pytest.raises(ValueError, match=r"shape \[20\] .*; got \[19\]"):
        batches.add_losses(0, np.zeros(19, "float32"))


def test_an_augmentation_that_changes_the_shape_is_refused(batches_of):
    batches = batches_of(augmentation=lambda images, rng: images[:, :2])
    with pytest.raises(ValueError, match="augmentation must keep the shape of the images"):
        batches[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes must be an integer of at least 2; got 1"),
        ({"clusters_per_class": 0}, "clusters_per_class must be an integer of at least 1; got 0"),
        ({"clusters_per_batch": 1}, "clusters_per_batch must be an integer of at least 2; got 1"),
        ({"examples_per_cluster": 1}, "examples_per_cluster must be an integer of at least 2; got 1"),
        ({"examples_per_cluster": 2.5}, "examples_per_cluster must be an integer of at least 2; got 2.5"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be an integer of at least 1; got 0"),
        ({"lag": -1}, "lag must be an integer of at least 0; got -1"),
        ({"seed": -1}, "seed must be an integer of at least 0; got -1"),
        ({"clusters_per_batch": 7}, r"at most 3 \* 2 = 6, the number of clusters; got 7"),
        ({"clusters_per_batch": 6}, r"5 impostor clusters of other classes; there are 2 \* 2 = 4. Pass at most 5"),
        ({"clusters_per_class": 41}, "class 0 has 40 examples, fewer than clusters_per_class=41"),
        ({"num_classes": 4}, "class 3 has 0 examples, fewer than clusters_per_class=2"),
        ({"num_classes": 2, "clusters_per_batch": 3}, r"labels must lie in 0..1 .*; got 2 at index 80"),
        ({"labels": np.eye(3)[np.zeros(120, int)]}, "looks one-hot"),
        ({"labels": np.zeros(119, int)}, "got 119 labels, 120 images"),
        ({"images": np.zeros((120, 16), "uint8")}, r"images must have shape \[N, H, W, C\].*got \(120, 16\)"),
        ({"images": np.zeros((0, 4, 4, 1), "uint8")}, "N at least 1"),
        ({"images": np.full((120, 4, 4, 1), 255.0)}, r"must be finite and lie in \[0, 1\]; got 255"),
        ({"images": np.zeros((120, 4, 4, 1), "int32")}, "int32"),
    ],
)
def test_what_cannot_work_is_refused_at_construction(colors, arguments, message):
    settings = {"images": colors[0], "labels": colors[1], "num_classes": 3, "clusters_per_batch": 4, **arguments}
    with pytest.raises(ValueError, match=message):
        MagnetBatches(**settings)


@pytest.mark.parametrize(
    ("assignments", "centers", "message"),
    [
        (np.zeros(119, int), np.zeros((3, 2, 4)), "assignments must be 120 integers"),
        (np.zeros(120), np.zeros((3, 2, 4)), "of float64"),
        (np.zeros(120, int), np.zeros((3, 2, 4)), "got 0 at index 40, whose class is 1"),
        (np.repeat([0, 2, 6], 40), np.zeros((3, 2, 4)), "got 6 at index 80, whose class is 2"),
        (np.repeat([0, 2, 4], 40), np.zeros((2, 3, 4)), r"centers must be finite floats \[3, 2, D\]; got shape"),
        (np.repeat([0, 2, 4], 40), np.full((3, 2, 4), np.nan), "a NaN or an infinity"),
    ],
)
def test_clusters_that_do_not_fit_are_refused(batches_of, assignments, centers, message):
    with pytest.raises(ValueError, match=message):
        batches_of(is_begun=False).assign(assignments, centers)


def test_labels_may_be_a_column(colors):
    batches = MagnetBatches(colors[0], colors[1][:, None], 3, clusters_per_batch=4)
    assert_array_equal(batches.labels, colors[1])


def test_it_is_a_data_set_of_keras(batches_of):
    assert isinstance(batches_of(), keras.utils.PyDataset)
