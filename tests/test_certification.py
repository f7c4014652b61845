import contextlib

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from clustr_keras import ClusterHead, center_geometry, certification, lipschitz
from clustr_keras.certificates import nearest_radius, union_radius
from clustr_keras.certification import Certifier


def certifier_with(bias=0.0, kernel_scale=1.0, method="union", seed=0, clusters=2, num_classes=4, centers=None):
    """A certifier on one dense layer, with random centers about the embeddings."""
    rng = np.random.default_rng(seed)
    backbone = keras.Sequential([keras.Input((3, 3, 1)), keras.layers.Flatten(), keras.layers.Dense(6)])
    backbone.layers[-1].set_weights([kernel_scale * rng.normal(size=(9, 6)), np.full(6, bias)])
    head = ClusterHead(num_classes, clusters)
    head.build((None, 6))
    if centers is None:
        centers = kernel_scale * rng.normal(size=(num_classes, clusters, 6)) + bias
    head.centers.assign(centers)
    bound = lipschitz.bound(backbone)
    head.set_lipschitz(bound.value)
    return Certifier(backbone, head, bound, method)


def images(count=200, seed=1):
    return np.random.default_rng(seed).uniform(size=(count, 3, 3, 1)).astype("float32")


def answers(certifier, x):
    return certifier.predict(x, verbose=0)


@pytest.mark.parametrize(("method", "radius"), [("nearest", nearest_radius), ("union", union_radius)])
def test_the_radius_is_that_of_the_exact_embedding(method, radius):
    certifier = certifier_with(method=method)
    x = images()
    kernel, bias = (w.astype("float64") for w in certifier.backbone.get_weights())
    exact = np.asarray(
        radius(x.reshape(-1, 9) @ kernel + bias, np.asarray(certifier.centers, "float64"), certifier.bound.value)
    )
    outputs = answers(certifier, x)
    assert_allclose(outputs["radius"], exact, atol=1e-5)
    assert (outputs["certified_radius"] <= exact).all()
    assert_allclose(outputs["certified_radius"], exact, atol=1e-3)


def test_the_slack_grows_with_what_float32_loses():
    # A bias of 1000 costs the embedding its last three digits.
    near, far = answers(certifier_with(), images()), answers(certifier_with(bias=1000.0), images())
    lost = near["radius"] - near["certified_radius"]
    is_certified = far["certified_radius"] > 0
    assert is_certified.any()
    assert (far["radius"] - far["certified_radius"])[is_certified].min() > 5 * lost.max()


@pytest.mark.parametrize("bias", [0.0, 300.0])
def test_no_float32_image_inside_the_radius_has_another_class(bias):
    certifier = certifier_with(bias=bias, seed=3)
    x = images(40)
    outputs = answers(certifier, x)
    radius = outputs["certified_radius"].astype("float64")
    assert (radius > 0).mean() > 0.5
    kernel = certifier.backbone.get_weights()[0].astype("float64")
    centers = np.asarray(certifier.centers, "float64")
    flat = centers.reshape(-1, 6)
    # The shortest way out: pull the step from the nearest center towards each rival back through the linear backbone.
    z = x.reshape(-1, 9).astype("float64") @ kernel + certifier.backbone.get_weights()[1]
    nearest = flat[((z[:, None] - flat) ** 2).sum(-1).argmin(-1)]
    for rival in flat:
        directions = (rival - nearest) @ kernel.T
        norms = np.linalg.norm(directions, axis=-1, keepdims=True)
        directions = np.divide(directions, norms, out=np.zeros_like(directions), where=norms > 0)
        moved = (x.reshape(-1, 9) + 0.999999 * radius[:, None] * directions).astype("float32")
        inside = np.linalg.norm(moved.astype("float64") - x.reshape(-1, 9), axis=-1) < radius
        classes = answers(certifier, moved.reshape(-1, 3, 3, 1))["class_ids"]
        assert_array_equal(classes[inside], outputs["class_ids"][inside])


def test_rounding_that_eats_the_margin_leaves_nothing_certified():
    outputs = answers(certifier_with(bias=1e7), images())
    assert_array_equal(outputs["certified_radius"], 0.0)
    assert np.isfinite(outputs["radius"]).all()


def test_coincident_centers_of_two_classes_certify_nothing():
    certifier = certifier_with(clusters=1, num_classes=2, centers=np.ones((2, 1, 6)))
    outputs = answers(certifier, images())
    assert_array_equal(outputs["radius"], 0.0)
    assert_array_equal(outputs["certified_radius"], 0.0)


def test_the_runner_up_is_the_second_largest_logit():
    outputs = answers(certifier_with(), images())
    assert_array_equal(outputs["runner_up_class_ids"], np.argsort(-outputs["logits"], axis=-1)[:, 1])


def test_the_nearest_cluster_counts_through_the_classes():
    certifier = certifier_with(clusters=3)
    outputs = answers(certifier, images())
    flat = np.asarray(certifier.centers, "float64").reshape(-1, 6)
    squared = ((outputs["embeddings"][:, None] - flat) ** 2).sum(-1)
    assert_array_equal(outputs["nearest_cluster"], squared.argmin(-1))
    assert_array_equal(outputs["nearest_cluster"] // 3, outputs["class_ids"])


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method must be one of"):
        certifier_with(method="guess")


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX compiles for each size")
def test_one_graph_does_for_batches_of_any_size(monkeypatch):
    traced, certified = [], Certifier._certified
    monkeypatch.setattr(Certifier, "_certified", lambda *arguments: traced.append(1) or certified(*arguments))
    certifier, x = certifier_with(), images(40)
    together, apart = (certifier.predict(x, batch_size=size, verbose=0) for size in (16, 7))
    assert_array_equal(apart["class_ids"], together["class_ids"])
    assert len(traced) == 1
    assert_allclose(certifier.predict_on_batch(x)["radius"], together["radius"], atol=1e-6)


def test_a_constant_backbone_certifies_without_a_division_by_zero():
    certifier = certifier_with(kernel_scale=0.0, centers=np.random.default_rng(0).normal(size=(4, 2, 6)))
    outputs = answers(certifier, images())
    assert not any(np.isnan(values).any() for values in outputs.values())
    assert len(set(outputs["class_ids"])) == 1


def flat_certifier(centers, kernel=None, dim=2, method="union"):
    """On images `[1, dim, 1]` that are their own embeddings, or their product with a kernel."""
    centers = np.asarray(centers, "float32")
    layers = [] if kernel is None else [keras.layers.Dense(len(kernel[0]), use_bias=False)]
    backbone = keras.Sequential([keras.Input((1, dim, 1)), keras.layers.Flatten(), *layers])
    if kernel is not None:
        backbone.layers[-1].set_weights([np.asarray(kernel)])
    head = ClusterHead(*centers.shape[:2])
    head.build((None, centers.shape[-1]))
    head.centers.assign(centers)
    return Certifier(backbone, head, lipschitz.bound(backbone), method)


def assert_no_flip_inside(certifier, x, moved):
    x, moved = (np.asarray(v, "float32").reshape(-1, 1, np.shape(v)[-1], 1) for v in (x, moved))
    before, after = answers(certifier, x), answers(certifier, moved)
    distance = np.linalg.norm((moved.astype("float64") - x).reshape(len(x), -1), axis=-1)
    flipped = before["class_ids"] != after["class_ids"]
    assert (distance[flipped] >= before["certified_radius"][flipped]).all()
    return after["class_ids"]


def test_centers_whose_distance_overflows_certify_nothing_wrong():
    far = [[[0.0, 1e18 + 2.0**63]], [[3e19, 2.0**63]], [[0.0, -1e18 + 2.0**63]]]
    certifier = flat_certifier(far, kernel=2.0**64 * np.eye(2))
    grid = np.random.default_rng(0).uniform(size=(400, 2))
    for step in ((0.05, 0.0), (0.0, 0.05), (0.0, -0.05), (-0.05, 0.0)):
        assert_no_flip_inside(certifier, grid, np.clip(grid + step, 0, 1))
    assert_array_equal(answers(certifier, np.float32(grid).reshape(-1, 1, 2, 1))["certified_radius"], 0.0)


@pytest.mark.parametrize(("floats_of_tables", "seed"), [(0, 1), (2**22, 2)])
def test_centers_at_the_threshold_of_coincidence_certify_nothing_wrong(floats_of_tables, seed, monkeypatch):
    # A wedge of one far face and one between centers that are 1e-15 apart: counted as a face or as none, not as both.
    monkeypatch.setattr(center_geometry, "_TABLE_FLOATS", floats_of_tables)
    rng = np.random.default_rng(seed)
    flips = 0
    for _ in range(4):
        gap = rng.normal(size=4)
        gap *= 1e-15 * (1 + rng.uniform(-1e-7, 1e-7)) / np.linalg.norm(gap)
        normal = gap / np.linalg.norm(gap)
        across = rng.normal(size=4)
        across -= (across @ normal) * normal
        far = 1e-5 * (-0.9 * normal + np.sqrt(0.19) * across / np.linalg.norm(across))
        certifier = flat_certifier([[gap, far], [0 * gap, -far]], method="exact", dim=4)
        x = np.abs(np.float32(0.5 * far))
        moved = np.clip(x - np.linspace(0.0, 2.0, 40)[:, None] * far, 0, 1)
        ids = assert_no_flip_inside(certifier, np.tile(x, (40, 1)), moved)
        flips += np.sum(ids != ids[0])
    assert flips > 0


def test_logits_of_coincident_centers_do_not_contradict_the_class():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(4, 2, 6))
    centers[1] = centers[0]
    centers[3, 1] = centers[2, 0]
    outputs = answers(certifier_with(centers=centers), images(400))
    assert_array_equal(outputs["logits"].argmax(-1), outputs["class_ids"])
    assert_array_equal(outputs["probabilities"].argmax(-1), outputs["class_ids"])


@pytest.mark.parametrize("scale", [0.0, 1e-37])
def test_a_nearly_constant_backbone_gives_nothing_but_numbers(scale):
    centers = 100 * np.random.default_rng(0).normal(size=(4, 2, 6))
    outputs = answers(certifier_with(kernel_scale=scale, centers=centers), images(5))
    assert all(np.isfinite(values).all() for values in outputs.values())
    assert_allclose(outputs["probabilities"].sum(-1), 1.0, rtol=1e-5)


def test_pixels_that_may_be_flushed_to_zero_certify_nothing():
    certifier = flat_certifier([[[0.1, 0.0]], [[-0.1, 0.0]]], kernel=1e37 * np.eye(2))
    # 2e-38 in the first pixel is 0.2 in the embedding, or 0 where it is flushed.
    outputs = answers(certifier, np.array([2e-38, 0.0], "float32").reshape(1, 1, 2, 1))
    assert_array_equal(outputs["certified_radius"], 0.0)


def under_policy(policy, function):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return function()
    finally:
        keras.config.set_dtype_policy(before)


def test_a_global_policy_of_lower_precision_does_not_reach_the_certificate():
    x = images()
    plain = certifier_with()
    expected = answers(plain, x)
    head = ClusterHead(*plain.centers.shape[:2])
    head.build((None, plain.centers.shape[-1]))
    head.centers.assign(plain.centers)
    wrapped = under_policy("mixed_bfloat16", lambda: Certifier(plain.backbone, head, plain.bound))
    assert_array_equal(answers(wrapped, x)["certified_radius"], expected["certified_radius"])
    # A backbone made under that policy computes in it, and nothing of it is certified.
    assert "certified_radius" not in under_policy("mixed_bfloat16", lambda: answers(certifier_with(), x))


@pytest.mark.parametrize("variable", ["ONEDNN_DEFAULT_FPMATH_MODE", "TF_SET_ONEDNN_FPMATH_MODE"])
def test_reduced_arithmetic_certifies_nothing(variable, monkeypatch):
    monkeypatch.setenv(variable, "BF16")
    assert "certified_radius" not in answers(certifier_with(), images())


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="about JAX")
def test_jax_told_to_be_fast_rather_than_exact_certifies_nothing(monkeypatch):
    jax = pytest.importorskip("jax")
    with jax.default_matmul_precision("BF16_BF16_F32"):
        assert "certified_radius" not in answers(certifier_with(), images(5))
    with jax.default_matmul_precision("highest"):
        assert certifier_with().has_rounding_analysis
    for flags, is_exact in (
        ("--xla_cpu_enable_fast_math=false", True),
        ("--xla_dump_to= --xla_cpu_enable_fast_math", False),
    ):
        monkeypatch.setenv("XLA_FLAGS", flags)
        assert certifier_with().has_rounding_analysis == is_exact


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="TensorFlow has float64 everywhere")
def test_where_float32_is_all_there_is_radii_are_no_larger(monkeypatch):
    x = images()
    wide = answers(certifier_with(method="exact"), x)
    monkeypatch.setattr(certification, "wide_floats", contextlib.nullcontext)
    narrow = answers(certifier_with(method="exact"), x)
    assert (narrow["certified_radius"] <= wide["certified_radius"]).all()
    assert_allclose(narrow["certified_radius"], wide["certified_radius"], atol=1e-3)
    assert (narrow["certified_radius"] > 0).mean() > 0.5


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="about TensorFlow")
def test_automatic_mixed_precision_certifies_nothing():
    tf = pytest.importorskip("tensorflow")
    tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": True})
    try:
        assert "certified_radius" not in answers(certifier_with(), images())
    finally:
        tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": False})
    assert "certified_radius" in answers(certifier_with(), images())


def test_an_image_that_is_no_number_has_radius_zero():
    x = images(3)
    x[1, 0, 0] = np.nan
    outputs = answers(certifier_with(), x)
    assert_array_equal(outputs["certified_radius"][1], 0.0)
    assert_array_equal(outputs["radius"][1], 0.0)
    assert (outputs["radius"][[0, 2]] > 0).all()
