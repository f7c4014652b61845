"""What holds for all layers that are 1-Lipschitz by construction."""

import functools

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from clustr_keras import lipschitz
from clustr_keras.lipschitz.blocked import blocked

LAYERS = {
    "space_to_depth": lambda **kwargs: lipschitz.SpaceToDepth(2, **kwargs),
    "depth_to_space": lambda **kwargs: lipschitz.DepthToSpace(2, **kwargs),
    "group_sort": lambda **kwargs: lipschitz.GroupSort(4, **kwargs),
    "max_min": lambda **kwargs: lipschitz.MaxMin(**kwargs),
    "l2_norm_pooling": lambda **kwargs: lipschitz.L2NormPooling(2, **kwargs),
    "householder": lambda **kwargs: lipschitz.HouseholderActivation(**kwargs),
    "orthogonal_conv": lambda **kwargs: lipschitz.OrthogonalConv2D(6, **kwargs),
    "orthogonal_conv_same": lambda **kwargs: lipschitz.OrthogonalConv2D(6, padding="same", **kwargs),
    "residual": lambda **kwargs: lipschitz.LipschitzResidual(10, **kwargs),
    "residual_conv": lambda **kwargs: lipschitz.LipschitzResidualConv2D(10, **kwargs),
    "orthogonal_dense": lambda **kwargs: lipschitz.OrthogonalDense(6, **kwargs),
}


def model_of(name, **kwargs):
    return keras.Sequential([keras.Input((4, 4, 8)), LAYERS[name](**kwargs)])


def images(count=3):
    return np.random.default_rng(0).normal(size=(count, 4, 4, 8)).astype("float32")


@pytest.fixture(params=LAYERS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def made(take_wild_steps, set_arbitrary_weights):
    """Function `(name, state) -> model`. Each is made once, and none may be mutated."""

    @functools.cache
    def make(name, state):
        keras.utils.set_random_seed(0)
        model = model_of(name)
        if state == "arbitrary weights":
            set_arbitrary_weights(model, 3.0)
        elif state == "wild steps" and model.trainable_variables:
            take_wild_steps(model)
        return model

    return make


@pytest.fixture(params=["new", "arbitrary weights", "wild steps"])
def model(name, request, made):
    return made(name, request.param)


def test_the_bound_lies_between_the_jacobian_and_one(model, jacobian):
    assert lipschitz.is_one_lipschitz_by_construction(model)
    bound = lipschitz.bound(model).value
    norm = np.linalg.norm(jacobian(model, images(1)[0]), 2)
    # The Jacobian is computed in float32.
    assert norm * (1 - 1e-5) <= bound
    assert norm <= 1.0 + 1e-5


def test_the_bound_is_one_where_training_leads(name, made):
    assert lipschitz.bound(made(name, "wild steps")).value <= 1.0001


def test_condensing_gives_the_same_outputs_with_a_bound_near_one(model):
    plain = lipschitz.condense(model)
    assert_allclose(plain(images()), model(images()), atol=1e-5)
    assert lipschitz.bound(plain).value <= lipschitz.bound(model).value * 1.0025
    assert not any(hasattr(layer, "condensed") for layer in plain.layers)
    assert_array_equal(lipschitz.condense(plain)(images()), plain(images()))
    assert_allclose(blocked(plain)(images()), plain(images()), atol=1e-5)


def test_save_and_load_keep_the_outputs(model, tmp_path):
    for number, saved in enumerate((model, lipschitz.condense(model))):
        saved.save(tmp_path / f"{number}.keras")
        loaded = keras.models.load_model(tmp_path / f"{number}.keras")
        assert_array_equal(loaded(images()), saved(images()))
        assert loaded.layers[-1].get_config() == saved.layers[-1].get_config()


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_computes_the_same_with_fewer_digits(name, dtype):
    model, precise = model_of(name, dtype=dtype), model_of(name)
    model.set_weights(precise.get_weights())
    outputs = model(images())
    assert keras.backend.standardize_dtype(outputs.dtype) == dtype.removeprefix("mixed_")
    assert_allclose(np.asarray(keras.ops.cast(outputs, "float32")), precise(images()), atol=0.1)
    assert_allclose(lipschitz.bound(model).value, lipschitz.bound(precise).value)


def test_it_trains_in_a_compiled_graph(name):
    model = keras.Sequential([*model_of(name).layers, keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    losses = model.fit(images(32), images(32)[:, 0, 0, 0], epochs=8, batch_size=16, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "layer",
    [
        lambda: lipschitz.OrthogonalConv2D(4),
        lambda: lipschitz.OrthogonalDense(4),
        lambda: lipschitz.LipschitzResidual(4),
        lambda: lipschitz.HouseholderActivation(),
    ],
)
def test_a_layer_without_weights_yet_has_no_bound(layer):
    with pytest.raises(lipschitz.UnknownBoundError, match="not built"):
        lipschitz.bound(layer(), input_shape=(8, 8, 4))
