import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from support.examples import examples
from support.gradients import gradient, value_and_gradients

from clustr_keras.lipschitz import MaxMin, OrthogonalDense, Orthonormal, orthogonal_optimizer


def singular_values(kernel):
    return np.linalg.svd(np.asarray(kernel, "float64"), compute_uv=False)


def built(shape):
    layer = OrthogonalDense(shape[1])
    layer.build((None, shape[0]))
    return layer


@pytest.mark.parametrize("shape", [(64, 64), (100, 30), (30, 100), (5, 1)])
def test_a_new_kernel_is_orthonormal(shape):
    assert_allclose(singular_values(built(shape).kernel), 1.0, atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.floats(-6, 6), st.sampled_from([(20, 20), (40, 8), (8, 40)]), st.booleans())
@examples(60)
def test_no_value_of_the_weights_makes_the_norm_exceed_one(seed, magnitude, shape, low_rank):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape) * 10.0**magnitude
    if low_rank:
        values = np.outer(values[:, 0], values[0])
    layer = built(shape)
    layer.set_weights([values, np.zeros(shape[1])])
    assert singular_values(layer.kernel)[0] <= 1.0 + 1e-6


@pytest.mark.parametrize("magnitude", [1e-37, 1e-20, 1e-9, 1e-7, 1e-3, 1e9, 1e20, 1e38])
def test_huge_and_tiny_weights_neither_overflow_nor_die(magnitude):
    layer = built((8, 8))
    values = magnitude * np.random.default_rng(0).uniform(0.5, 1.0, size=(8, 8))
    layer.set_weights([values, np.zeros(8)])
    kernel = np.asarray(layer.kernel)
    assert np.isfinite(kernel).all()
    assert singular_values(kernel)[0] <= 1.0 + 1e-6
    assert singular_values(kernel)[-1] >= 0.99


@pytest.mark.parametrize("smallest", [1e-2, 1e-4, 1e-6])
def test_weights_far_from_orthogonal_make_an_orthogonal_kernel(smallest):
    layer = built((16, 16))
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0]
    layer.set_weights([q * np.geomspace(1.0, smallest, 16), np.zeros(16)])
    assert singular_values(layer.kernel)[0] <= 1.0 + 1e-6
    assert singular_values(layer.kernel)[-1] >= 0.99


def test_weights_that_are_all_zero_make_a_kernel_of_zeros():
    layer = built((4, 4))
    layer.set_weights([np.zeros((4, 4)), np.zeros(4)])
    assert not np.asarray(layer.kernel).any()


@pytest.mark.parametrize("scale", [1.0, 1.3, 1.49, 1.51, 1.99, 2.5, 50.0])
def test_multiples_of_an_orthogonal_matrix_stay_within_one(scale):
    layer = built((16, 16))
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0]
    layer.set_weights([scale * q, np.zeros(16)])
    values = singular_values(layer.kernel)
    assert values[0] <= 1.0 + 1e-6
    assert values[-1] >= 0.99


@pytest.mark.parametrize("shape", [(32, 32), (48, 16), (16, 48)])
def test_any_weights_of_full_rank_make_an_orthogonal_kernel(shape):
    layer = built(shape)
    for seed in range(5):
        layer.set_weights([np.random.default_rng(seed).normal(size=shape), np.zeros(shape[1])])
        values = singular_values(layer.kernel)
        assert values[0] <= 1.0 + 1e-6
        assert values[-1] >= 0.99


@pytest.mark.parametrize("shape", [(12, 12), (20, 6), (6, 20)])
def test_the_gradient_is_that_of_a_newton_schulz_step_at_an_orthogonal_kernel(shape):
    layer = built(shape)
    u, _, v = np.linalg.svd(np.random.default_rng(0).normal(size=shape), full_matrices=False)
    w = (u if shape[0] >= shape[1] else v).astype("float32")
    upstream = np.random.default_rng(1).normal(size=shape).astype("float32")
    layer.raw_kernel.assign(w)
    _, (found,) = value_and_gradients(lambda: upstream * layer.kernel, layer.raw_kernel)
    expected = gradient(lambda w: upstream * (1.5 * w - 0.5 * w @ keras.ops.transpose(w) @ w), w)
    assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "make", [lambda: keras.optimizers.Adam(0.1), lambda: orthogonal_optimizer(1.0)], ids=["Adam", "Muon"]
)
@pytest.mark.parametrize("shape", [(32, 32), (48, 16), (16, 48)])
def test_a_thousand_wild_steps_leave_the_kernel_orthonormal(shape, make, take_wild_steps):
    layer = built(shape)
    take_wild_steps(layer, 1000, make())
    values = singular_values(layer.kernel)
    assert values[0] <= 1.0 + 1e-6
    assert values[-1] >= 0.99


@pytest.mark.parametrize("shape", [(784, 512), (3072, 1024)])
def test_kernels_as_large_as_those_of_the_presets_are_orthonormal_too(shape):
    layer, rng = built(shape), np.random.default_rng(0)
    optimizer = keras.optimizers.Adam(0.1)
    optimizer.build(layer.trainable_variables)

    def check():
        gram = np.asarray(layer.kernel, "float64").T @ np.asarray(layer.kernel, "float64")
        values = np.sqrt(np.linalg.eigvalsh(gram))
        assert values[-1] <= 1.0 + 1e-6
        assert values[0] >= 0.99

    check()
    layer.set_weights([rng.normal(size=shape), np.zeros(shape[1])])
    check()
    for _ in range(3):
        gradients = [rng.normal(size=v.shape).astype("float32") for v in layer.trainable_variables]
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], layer.trainable_variables)
    check()


def test_training_moves_the_kernel_along_the_orthogonal_matrices():
    rng = np.random.default_rng(0)
    target = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    target[:, 0] *= np.sign(np.linalg.det(target))
    x = rng.normal(size=(256, 12)).astype("float32")
    model = keras.Sequential([keras.Input((12,)), OrthogonalDense(12, kernel_initializer="identity")])
    model.compile(keras.optimizers.Adam(0.02), "mse")
    model.fit(x, (x @ target).astype("float32"), epochs=60, batch_size=64, verbose=0)
    assert_allclose(model.layers[0].kernel, target, atol=0.02)


@pytest.mark.parametrize("shape", [(10, 10), (30, 6), (6, 30)])
def test_the_constraint_finds_the_nearest_orthonormal_matrix(shape):
    rng = np.random.default_rng(0)
    u, _, vt = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    polar = u @ vt
    stretched = u @ np.diag(rng.uniform(0.5, 3.0, size=min(shape))) @ vt
    retracted = np.asarray(Orthonormal()(stretched.astype("float32")))
    assert np.linalg.norm(retracted - polar) <= 1e-2


def test_an_isometry_keeps_distances_and_a_projection_never_stretches_them():
    x = np.random.default_rng(0).normal(size=(50, 24)).astype("float32")
    wide, narrow = OrthogonalDense(40)(x), OrthogonalDense(10)(x)
    gaps = np.linalg.norm(x[1:] - x[:-1], axis=-1)
    assert_allclose(np.linalg.norm(np.diff(wide, axis=0), axis=-1), gaps, rtol=1e-5)
    assert (np.linalg.norm(np.diff(narrow, axis=0), axis=-1) <= gaps * (1 + 1e-6)).all()


def test_condensing_gives_the_same_outputs():
    x = np.random.default_rng(0).normal(size=(5, 24)).astype("float32")
    layer = OrthogonalDense(16, bias_initializer="ones")
    outputs = layer(x)
    plain = layer.condensed()
    assert type(plain) is keras.layers.Dense
    assert_allclose(plain(x), outputs, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_the_kernel_is_float32_under_mixed_precision(policy):
    layer = OrthogonalDense(16, dtype=policy)
    outputs = layer(np.ones((2, 16), "float32"))
    assert keras.backend.standardize_dtype(outputs.dtype) == policy.removeprefix("mixed_")
    assert keras.backend.standardize_dtype(layer.kernel.dtype) == "float32"
    assert_allclose(singular_values(layer.kernel), 1.0, atol=1e-6)


def test_save_and_load_keep_the_kernel(tmp_path):
    model = keras.Sequential([keras.Input((12,)), OrthogonalDense(8), MaxMin()])
    model.layers[0].raw_kernel.assign(np.random.default_rng(0).normal(size=(12, 8)))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_array_equal(loaded.layers[0].kernel, model.layers[0].kernel)


@pytest.mark.parametrize("units", [0, -3, 2.5, "8"])
def test_units_must_be_a_positive_integer(units):
    with pytest.raises(ValueError, match="units must be an integer of at least 1"):
        OrthogonalDense(units)


def test_max_min_sorts_pairs():
    x = np.random.default_rng(0).normal(size=(7, 3, 10)).astype("float32")
    pairs = np.sort(x.reshape(7, 3, 2, 5), axis=2)[:, :, ::-1]
    assert_array_equal(MaxMin()(x), pairs.reshape(7, 3, 10))


def test_max_min_needs_an_even_number_of_features():
    with pytest.raises(ValueError, match="must be even"):
        MaxMin()(np.ones((2, 5)))
