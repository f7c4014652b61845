import pathlib

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from support.gradients import value_and_gradients

from clustr_keras import ClusterHead
from clustr_keras.losses import CenterMagnetLoss, MagnetLoss, center_magnet_losses, magnet_losses

GOLDEN = pathlib.Path(__file__).parents[3] / "shared" / "golden" / "reference_magnet.npz"


def formula(own, rivals, variance, alpha):
    """The published formula for one example, in float64, on squared distances."""
    numerator = np.exp(-own / (2 * variance) - alpha)
    return max(0.0, -np.log(numerator / (sum(np.exp(-rivals / (2 * variance))) + 1e-8) + 1e-8))


def by_hand(embeddings, y_true, alpha):
    """Losses and variance of a magnet batch, one row and one cluster after the other, in float64."""
    is_real = y_true[:, 1] >= 0
    z, (classes, clusters) = embeddings[is_real].astype("float64"), y_true[is_real].T
    means = {k: z[clusters == k].mean(0) for k in clusters}
    class_of = dict(zip(clusters, classes, strict=True))
    own = np.array([((row - means[k]) ** 2).sum() for row, k in zip(z, clusters, strict=True)])
    variance = own.sum() / (len(z) - 1)
    losses = np.zeros(len(embeddings))
    losses[is_real] = [
        formula(d, np.array([((row - means[k]) ** 2).sum() for k in means if class_of[k] != c]), variance, alpha)
        for row, c, d in zip(z, classes, own, strict=True)
    ]
    return losses, variance


def magnet_batch(seed=0, clusters=6, examples=4, dim=5, padding=3, spread=1.0):
    """Rows of clusters in any order, of sizes from 1 to `examples`, and rows of padding that hold no numbers."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(clusters), rng.integers(1, examples + 1, clusters))
    z = spread * rng.normal(size=(clusters, dim))[ids] + rng.normal(size=(len(ids), dim))
    y_true = np.concatenate([np.stack([ids // 2, ids], -1), np.tile([0, -1], (padding, 1))])
    z = np.concatenate([z, np.full((padding, dim), np.nan)]).astype("float32")
    order = rng.permutation(len(z))
    return z[order], y_true[order].astype("int32")


def loss_and_gradient(loss, y_true, y_pred, **kwargs):
    value, (gradient,) = value_and_gradients(lambda y_pred: loss(y_true, y_pred, **kwargs), y_pred)
    return float(value), gradient


@pytest.mark.skipif(not GOLDEN.exists(), reason=f"the paper's numbers are not here: {GOLDEN.name}")
@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("padding", [0, 5])
def test_it_matches_the_published_code(number, padding):
    golden = {key.removeprefix(f"magnet{number}_"): value for key, value in np.load(GOLDEN).items()}
    z, alpha = golden["embeddings"], float(golden["alpha"])
    y_true = np.stack([golden["classes"], golden["clusters"]], axis=-1)
    order = np.random.default_rng(0).permutation(len(z) + padding)
    z = np.concatenate([z, np.full((padding, z.shape[1]), np.inf, "float32")])[order]
    y_true = np.concatenate([y_true, np.tile([0, -1], (padding, 1))])[order]
    row = np.argsort(order)[: len(order) - padding]  # where a row of the file is

    losses, variance = magnet_losses(z, y_true[:, 0], y_true[:, 1], alpha)
    expected = golden["losses"]
    assert_allclose(variance, golden["variance"], rtol=1e-4)
    assert_allclose(np.asarray(losses)[row], expected, rtol=1e-4)
    assert_array_equal(np.asarray(losses)[row] == 0, expected == 0)
    loss, gradient = loss_and_gradient(MagnetLoss(alpha), y_true, z)
    assert_allclose(loss, golden["loss"], rtol=1e-4)
    assert_allclose(gradient[row], golden["grad"], atol=1e-4 * np.abs(golden["grad"]).max())


@given(seed=st.integers(0, 10**6), alpha=st.floats(0, 15), spread=st.floats(0.1, 5))
def test_it_is_the_formula_whatever_the_order_of_the_rows_and_without_the_padding(seed, alpha, spread):
    z, y_true = magnet_batch(seed, spread=spread)
    expected, expected_variance = by_hand(z, y_true, alpha)
    losses, variance = magnet_losses(z, y_true[:, 0], y_true[:, 1], alpha)
    assert_allclose(variance, expected_variance, rtol=1e-4)
    assert_allclose(losses, expected, rtol=1e-4, atol=1e-4)
    loss, gradient = loss_and_gradient(MagnetLoss(alpha), y_true, z)
    assert_allclose(loss, expected[y_true[:, 1] >= 0].mean(), rtol=1e-4, atol=1e-4)
    assert np.isfinite(gradient).all()
    assert_array_equal(gradient[y_true[:, 1] < 0], 0.0)


def test_the_gradient_is_that_of_the_formula():
    z, y_true = magnet_batch(1)
    is_real = y_true[:, 1] >= 0
    _, gradient = loss_and_gradient(MagnetLoss(3.0, reduction="sum"), y_true, z)
    wide = z.astype("float64")
    for row, column in [(0, 0), (3, 2), (7, 4), (len(z) - 1, 1)]:
        step = np.zeros_like(wide)
        step[row, column] = 1e-5
        up, down = (by_hand(wide + sign * step, y_true, 3.0)[0].sum() for sign in (1, -1))
        assert_allclose(gradient[row, column], (up - down) / 2e-5 if is_real[row] else 0.0, rtol=1e-3, atol=1e-4)


def test_embeddings_far_from_the_origin_keep_their_distances():
    z, y_true = magnet_batch(2)
    z = z + np.float32(1000)
    losses, variance = magnet_losses(z, y_true[:, 0], y_true[:, 1], 4.0)
    expected, expected_variance = by_hand(z, y_true, 4.0)
    assert_allclose(variance, expected_variance, rtol=1e-4)
    assert_allclose(losses, expected, rtol=1e-4, atol=1e-4)


def test_without_other_classes_only_examples_far_out_cost():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(200, 2)).astype("float32")
    y_true = np.stack([np.zeros(200), np.arange(200) % 2], axis=-1)
    losses, variance = magnet_losses(z, y_true[:, 0], y_true[:, 1], 17.0)
    means = np.stack([z[::2].mean(0), z[1::2].mean(0)])[np.arange(200) % 2]
    excess = ((z - means) ** 2).sum(-1) / (2 * float(variance)) + 17.0 + np.log(1e-8)
    expected = -np.log(np.minimum(1.0, np.exp(-excess) + 1e-8))
    assert 0 < np.mean(expected > 0) < 1
    assert_allclose(losses, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("z", "y_true"),
    [
        (np.full((6, 3), np.nan), np.tile([0, -1], (6, 1))),  # padding alone
        (np.ones((1, 3)), np.array([[0, 0]])),
        (np.ones((6, 3)), np.array([[0, 0], [0, 0], [0, 1], [1, 2], [1, 3], [1, 3]])),  # all in one place
        (np.eye(4), np.stack([np.arange(4), np.arange(4)], -1)),  # clusters of one row: no variance
        (1e-20 * np.eye(4), np.stack([np.arange(4), np.arange(4) // 2], -1)),
        (3e3 * np.eye(4).repeat(3, 0) + 1e-4 * np.eye(12, 4), np.stack([np.arange(12) // 3] * 2, -1)),
    ],
)
@pytest.mark.parametrize("alpha", [0.0, 12.5, 30.0])
def test_degenerate_batches_have_finite_losses_and_gradients(z, y_true, alpha):
    loss, gradient = loss_and_gradient(MagnetLoss(alpha), y_true, z.astype("float32"))
    assert 0.0 <= loss < 18.43
    assert np.isfinite(gradient).all()
    if (y_true[:, 1] < 0).all():
        assert loss == 0.0
        assert_array_equal(gradient, 0.0)


def test_sample_weights_of_one_and_zero_change_nothing_and_others_weigh():
    z, y_true = magnet_batch(3)
    is_real = (y_true[:, 1] >= 0).astype("float32")
    expected, _ = by_hand(z, y_true, 12.5)
    loss = MagnetLoss()
    for weights in (None, is_real, is_real[:, None], np.ones_like(is_real)):
        assert_allclose(loss(y_true, z, sample_weight=weights), expected.sum() / is_real.sum(), rtol=1e-4)
    weights = np.linspace(0, 1, len(z)).astype("float32")
    shares = weights * is_real / (weights * is_real).sum()
    assert_allclose(loss(y_true, z, sample_weight=weights), (shares * expected).sum(), rtol=1e-4)
    assert_allclose(MagnetLoss(reduction=None)(y_true, z), expected, rtol=1e-4, atol=1e-4)
    assert_allclose(MagnetLoss(reduction="sum")(y_true, z), expected.sum(), rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_embeddings_of_low_precision_are_cast_up(dtype):
    z, y_true = magnet_batch(4)
    low = keras.ops.cast(z, dtype)
    losses, variance = magnet_losses(low, y_true[:, 0], y_true[:, 1])
    expected, expected_variance = by_hand(keras.ops.convert_to_numpy(low).astype("float32"), y_true, 12.5)
    assert losses.dtype == variance.dtype == MagnetLoss()(y_true, low).dtype == "float32"
    assert_allclose(losses, expected, rtol=1e-4)
    assert_allclose(variance, expected_variance, rtol=1e-4)


def test_it_compiles_once_for_batches_of_any_content():
    tf, traces = pytest.importorskip("tensorflow"), []
    if keras.backend.backend() != "tensorflow":
        pytest.skip("about tf.function")

    @tf.function(jit_compile=True, input_signature=[tf.TensorSpec((12, 2), "int32"), tf.TensorSpec((12, 5))])
    def loss(y_true, z):
        traces.append(1)
        return MagnetLoss(2.0)(y_true, z)

    for seed in range(3):
        z, y_true = magnet_batch(seed, clusters=4, examples=2, padding=8)
        z, y_true = z[:12], y_true[:12]
        assert_allclose(loss(y_true, z), by_hand(z, y_true, 2.0)[0].sum() / (y_true[:, 1] >= 0).sum(), rtol=1e-4)
    assert len(traces) == 1


def test_keras_trains_embeddings_with_it():
    keras.utils.set_random_seed(0)
    z, y_true = magnet_batch(5, clusters=6, examples=6, spread=0.5)
    weights = (y_true[:, 1] >= 0).astype("float32")
    z = np.where(weights[:, None] > 0, z, 0.0)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(4)])
    model.compile(keras.optimizers.Adam(1e-2), MagnetLoss(2.0), jit_compile=True)
    settings = {"sample_weight": weights, "batch_size": len(z), "verbose": 0}
    before = model.evaluate(z, y_true, **settings)
    expected, _ = by_hand(model.predict(z, verbose=0), y_true, 2.0)
    assert_allclose(before, expected.sum() / weights.sum(), rtol=1e-4)
    model.fit(z, y_true, epochs=30, shuffle=False, **settings)
    assert model.evaluate(z, y_true, **settings) < 0.5 * before


@given(seed=st.integers(0, 10**6), alpha=st.floats(0, 15), clusters=st.integers(1, 3), column=st.booleans())
def test_the_center_form_is_the_formula_on_the_nearest_own_center(seed, alpha, clusters, column):
    rng = np.random.default_rng(seed)
    z, centers = rng.normal(size=(7, 3)), 2 * rng.normal(size=(4, clusters, 3))
    labels = rng.integers(0, 4, 7)
    squared = ((z[:, None, None] - centers) ** 2).sum(-1)
    own = squared[np.arange(7), labels].min(-1)
    variance = own.sum() / 6
    expected = [
        formula(d, np.delete(row, label, axis=0).ravel(), variance, alpha)
        for d, row, label in zip(own, squared, labels, strict=True)
    ]
    losses, of_batch = center_magnet_losses(squared, labels, alpha)
    assert_allclose(of_batch, variance, rtol=1e-5)
    assert_allclose(losses, expected, rtol=1e-4, atol=1e-4)
    loss = CenterMagnetLoss(alpha)(labels[:, None] if column else labels, squared)
    assert_allclose(loss, np.mean(expected), rtol=1e-4, atol=1e-4)


def test_both_forms_agree_where_the_centers_are_the_means_of_the_batch():
    z, y_true = magnet_batch(6, clusters=8, padding=0, spread=4.0)
    means = np.stack([z[y_true[:, 1] == k].mean(0) for k in range(8)])
    head = ClusterHead(4, 2)
    head.build((None, 5))
    head.centers.assign(means.reshape(4, 2, 5))
    squared = np.asarray(head.squared_distances(z)).reshape(-1, 8)
    assert_array_equal(squared.argmin(-1), y_true[:, 1])  # else the nearest own center may be another
    losses, variance = magnet_losses(z, y_true[:, 0], y_true[:, 1], 30.0)
    of_centers, center_variance = center_magnet_losses(squared.reshape(-1, 4, 2), y_true[:, 0], 30.0)
    assert np.ptp(losses) > 1.0
    assert_allclose(center_variance, variance, rtol=1e-4)
    assert_allclose(of_centers, losses, rtol=1e-3)


def test_the_center_form_moves_centers_too():
    head = ClusterHead(3, 2)
    head.build((None, 4))
    z = np.random.default_rng(0).normal(size=(9, 4)).astype("float32")
    _, (gradient,) = value_and_gradients(
        lambda: CenterMagnetLoss()(np.arange(9) % 3, head.squared_distances(z)), head.centers
    )
    assert np.isfinite(gradient).all()
    assert (np.abs(gradient).sum(-1) > 0).all()


@pytest.mark.parametrize("squared", [np.zeros((4, 3, 2)), np.zeros((1, 3, 2)), np.full((2, 3, 2), 1e30)])
def test_the_center_form_is_finite_at_no_distance_and_at_any(squared):
    loss, gradient = loss_and_gradient(CenterMagnetLoss(), np.arange(len(squared)) % 3, squared.astype("float32"))
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("kind", [MagnetLoss, CenterMagnetLoss])
def test_a_copy_from_its_configuration_is_the_same(kind):
    loss = kind(3.0, reduction="sum", name="mine")
    copied = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(copied) is kind
    assert (copied.alpha, copied.reduction, copied.name) == (3.0, "sum", "mine")
    assert copied.get_config() == loss.get_config() == {"alpha": 3.0, "reduction": "sum", "name": "mine"}
    assert keras.saving.get_registered_name(kind) == f"clustr_keras>{kind.__name__}"


def test_they_say_what_they_act_on():
    assert (MagnetLoss.acts_on, CenterMagnetLoss.acts_on) == ("embeddings", "squared_distances")


@pytest.mark.parametrize("kind", [MagnetLoss, CenterMagnetLoss])
@pytest.mark.parametrize("alpha", [-1.0, float("nan"), float("inf")])
def test_an_alpha_that_is_no_margin_is_refused(kind, alpha):
    with pytest.raises(ValueError, match=f"alpha must be a number of at least 0; got {alpha}"):
        kind(alpha)


def test_class_ids_alone_are_refused_by_the_magnet_loss():
    with pytest.raises(ValueError, match=r"y_true \[B, 2\], class and cluster; got shape \(4,\).*CenterMagnetLoss"):
        MagnetLoss()(np.zeros(4), np.zeros((4, 2)))


def test_logits_are_refused_by_the_center_form():
    with pytest.raises(ValueError, match=r"squared distances \[B, C, K\]; got shape \(4, 2\)"):
        CenterMagnetLoss()(np.zeros(4), np.zeros((4, 2)))
