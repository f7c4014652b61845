import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose
from support.gradients import jacobian

from clustr_keras import lipschitz
from clustr_keras.backbones import lipschitz_mlp
from clustr_keras.lipschitz import MaxMin, OrthogonalDense, UnknownBoundError


def dense(units, **kwargs):
    return keras.layers.Dense(units, kernel_initializer="random_normal", bias_initializer="random_normal", **kwargs)


def chain(*layers, shape=(8,)):
    return keras.Sequential([keras.Input(shape), *layers])


def in_float64(model, x):
    """A chain of Dense, ReLU and MaxMin layers in NumPy float64: the exact value, as far as float32 can tell."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Flatten):
            x = x.reshape(len(x), -1)
        elif isinstance(layer, MaxMin):
            first, second = np.split(x, 2, axis=-1)
            x = np.concatenate([np.maximum(first, second), np.minimum(first, second)], axis=-1)
        elif isinstance(layer, keras.layers.Dense):
            x = x @ np.asarray(layer.kernel, "float64") + np.asarray(layer.bias, "float64")
            x = np.maximum(x, 0.0) if layer.activation is keras.activations.relu else x
    return x


def test_a_chain_is_the_product_of_its_layers():
    model = chain(dense(6, activation="relu"), dense(4, activation="sigmoid"), keras.layers.Rescaling(3.0))
    norms = [np.linalg.norm(np.asarray(layer.kernel), 2) for layer in model.layers[:2]]
    assert_allclose(lipschitz.bound(model).value, norms[0] * norms[1] * 0.25 * 3.0, rtol=1e-5)


def test_the_bound_is_above_every_jacobian_and_every_slope():
    rng = np.random.default_rng(0)
    for seed in range(10):
        keras.utils.set_random_seed(seed)
        model = chain(dense(12, activation="relu"), MaxMin(), dense(10, activation="tanh"), OrthogonalDense(6))
        bound = lipschitz.bound(model).value
        x = rng.normal(size=(20, 8)).astype("float32")
        z = model(x)
        for row in x[:3]:
            assert np.linalg.norm(jacobian(model, row[None]), 2) <= bound
        slopes = np.linalg.norm(np.diff(z, axis=0), axis=-1) / np.linalg.norm(np.diff(x, axis=0), axis=-1)
        assert slopes.max() <= bound


def test_nested_models_and_layers_used_twice_count_each_time():
    inner = chain(dense(8), dense(8))
    shared = dense(8)
    inputs = keras.Input((8,))
    model = keras.Model(inputs, shared(inner(shared(inputs))))
    expected = lipschitz.bound(inner).value * lipschitz.bound(shared).value ** 2
    assert_allclose(lipschitz.bound(model).value, expected, rtol=1e-6)
    assert len(lipschitz.bound(model).table) == 4


def test_an_activation_argument_counts():
    plain, quarter = dense(4), dense(4, activation="sigmoid")
    plain.build((None, 8))
    quarter.build((None, 8))
    quarter.set_weights(plain.get_weights())
    assert_allclose(lipschitz.bound(quarter).value, 0.25 * lipschitz.bound(plain).value, rtol=1e-6)


def test_the_value_is_a_float32_number_rounded_upward():
    layer = keras.layers.Dense(1, use_bias=False)
    layer.build((None, 2))
    layer.set_weights([np.array([[0.1], [0.0]])])
    value = lipschitz.bound(layer).value
    assert value == float(np.float32(value))
    assert value >= float(np.float32(0.1))


def test_an_unknown_layer_is_named():
    with pytest.raises(UnknownBoundError, match="no Lipschitz bound is known for LayerNormalization 'odd'"):
        lipschitz.bound(chain(dense(4), keras.layers.LayerNormalization(name="odd")))


def test_a_call_of_keras_ops_is_seen_and_named():
    inputs = keras.Input((4,))
    with pytest.raises(UnknownBoundError, match="Exp"):
        lipschitz.bound(keras.Model(inputs, keras.ops.exp(inputs)))


def test_an_unknown_activation_is_named():
    with pytest.raises(UnknownBoundError, match="'exponential'"):
        lipschitz.bound(chain(dense(4, activation="exponential")))


def test_a_product_of_two_tensors_is_an_error():
    inputs = keras.Input((4,))
    with pytest.raises(UnknownBoundError, match="multiply"):
        lipschitz.bound(keras.Model(inputs, keras.layers.multiply([dense(4)(inputs), inputs])))


def test_a_thresholded_relu_is_an_error():
    with pytest.raises(UnknownBoundError, match="not continuous"):
        lipschitz.bound(chain(keras.layers.ReLU(threshold=1.0)))


def test_a_subclassed_model_is_an_error():
    class Opaque(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(UnknownBoundError, match="no graph of operations"):
        lipschitz.bound(Opaque())


def test_nan_weights_are_an_error():
    model = chain(dense(4, name="broken"))
    model.set_weights([np.full((8, 4), np.nan), np.zeros(4)])
    with pytest.raises(ValueError, match=r"'broken'.*NaN"):
        lipschitz.bound(model)


def test_a_subclass_of_a_known_layer_is_not_trusted():
    class Doubled(keras.layers.Dense):
        def call(self, inputs):
            return 2.0 * super().call(inputs)

    with pytest.raises(UnknownBoundError, match="Doubled"):
        lipschitz.bound(chain(Doubled(4)))


def test_a_registered_layer_counts(monkeypatch):
    class Tripled(keras.layers.Layer):
        def call(self, inputs):
            return 3.0 * inputs

    monkeypatch.setattr("clustr_keras.lipschitz.registry._REGISTRY", dict(lipschitz.registry._REGISTRY))
    lipschitz.register(Tripled)(lambda call: lipschitz.LayerBound(3.0, "a factor"))
    assert lipschitz.bound(chain(Tripled())).value == 3.0
    assert not lipschitz.is_one_lipschitz_by_construction(chain(Tripled()))


def test_by_construction_is_a_matter_of_the_layers_not_of_the_weights():
    assert lipschitz.is_one_lipschitz_by_construction(lipschitz_mlp((8, 8, 1), (16, 8)))
    small = chain(dense(4))
    small.set_weights([np.zeros((8, 4)), np.zeros(4)])
    assert not lipschitz.is_one_lipschitz_by_construction(small)


def test_printing_a_bound_shows_every_operation():
    shown = str(lipschitz.bound(lipschitz_mlp((4, 4, 1), (16, 8))))
    for name in ("flatten", "orthogonal_0", "max_min_0", "orthogonal_1", "in all"):
        assert name in shown


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_float32_evaluation_stays_within_the_rounding_bound(scale):
    rng = np.random.default_rng(0)
    model = chain(
        keras.layers.Flatten(), dense(128, activation="relu"), dense(64), MaxMin(), dense(16), shape=(6, 6, 3)
    )
    bound = lipschitz.bound(model)
    x = (scale * rng.uniform(size=(64, 6, 6, 3))).astype("float32")
    error = np.linalg.norm(np.asarray(model(x)) - in_float64(model, x.astype("float64")), axis=-1)
    norm = np.linalg.norm(x.astype("float64").reshape(64, -1), axis=-1)
    allowed = bound.rounding_slope * norm + bound.rounding_intercept
    assert (error <= allowed).all()
    assert error.max() > 1e-4 * allowed.max(), "a bound that loose would be of no use"


def test_the_rounding_of_one_product_is_bounded_for_the_worst_signs():
    # Alternating large terms that cancel: the error of a float32 sum is then as large as it gets.
    layer = keras.layers.Dense(1, use_bias=False)
    layer.build((None, 1000))
    rng = np.random.default_rng(0)
    kernel = rng.uniform(0.5, 1.0, size=(1000, 1)) * np.where(np.arange(1000) % 2, 1, -1)[:, None]
    layer.set_weights([kernel])
    bound = lipschitz.bound(layer)
    x = rng.uniform(0.5, 1.0, size=(200, 1000)).astype("float32")
    exact = x.astype("float64") @ np.asarray(layer.kernel, "float64")
    error = np.abs(np.asarray(layer(x)) - exact)[:, 0]
    assert (error <= bound.rounding_slope * np.linalg.norm(x, axis=-1) + bound.rounding_intercept).all()


def test_no_rounding_analysis_is_claimed_where_there_is_none():
    assert lipschitz.bound(chain(dense(4, activation="tanh"))).rounding_slope is None
    assert lipschitz.bound(chain(dense(4, dtype="mixed_bfloat16"))).rounding_slope is None
    # The kernel of the layer itself is recomputed in each call; that of its condensed form is not.
    model = chain(OrthogonalDense(4))
    assert lipschitz.bound(model).rounding_slope is None
    assert lipschitz.bound(lipschitz.condense(model)).rounding_slope is not None


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
def test_an_input_that_casts_to_integers_has_no_bound(dtype):
    model = keras.Sequential([keras.Input((8,), dtype=dtype), OrthogonalDense(4)])
    with pytest.raises(UnknownBoundError, match=f"casts images to {dtype}"):
        lipschitz.bound(model)
    assert not lipschitz.is_one_lipschitz_by_construction(model)
    # A nested input casts as well.
    outer = keras.Input((8,))
    assert not lipschitz.is_one_lipschitz_by_construction(keras.Model(outer, model(outer)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_an_input_of_lower_precision_has_no_rounding_analysis(dtype):
    assert lipschitz.bound(keras.Sequential([keras.Input((8,), dtype=dtype), dense(4)])).rounding_slope is None


def test_a_bias_acts_at_every_position():
    flat, spread = chain(dense(2)), chain(keras.layers.Reshape((25, 8)), dense(2), shape=(200,))
    spread.layers[-1].set_weights(flat.layers[-1].get_weights())
    one, many = lipschitz.bound(flat), lipschitz.bound(spread)
    assert_allclose(many.value, one.value)
    assert_allclose(many.peak_intercept, 5.0 * one.peak_intercept, rtol=1e-6)
    assert many.rounding_intercept >= 4.99 * one.rounding_intercept
    unknown = keras.Sequential([keras.Input((None, 8)), dense(2)])
    assert lipschitz.bound(unknown).rounding_slope is None


@pytest.mark.parametrize("base", [keras.Model, keras.Sequential])
def test_a_model_that_overrides_call_is_not_trusted(base):
    class Tenfold(base):
        def call(self, x):
            return 10.0 * super().call(x)

    inputs = keras.Input((8,))
    model = Tenfold([inputs, dense(4)]) if base is keras.Sequential else Tenfold(inputs, dense(4)(inputs))
    with pytest.raises(UnknownBoundError, match="overrides call"):
        lipschitz.bound(model)
    with pytest.raises(UnknownBoundError, match="overrides call"):
        lipschitz.bound(keras.Model(inputs, model(inputs)))


def test_a_registered_model_is_one_operation(monkeypatch):
    class Halving(keras.Model):
        def call(self, x):
            return 0.5 * x

    monkeypatch.setattr("clustr_keras.lipschitz.registry._REGISTRY", dict(lipschitz.registry._REGISTRY))
    lipschitz.register(Halving)(lambda call: lipschitz.LayerBound(0.5, "half"))
    inputs = keras.Input((8,))
    assert lipschitz.bound(Halving()).value == 0.5
    assert lipschitz.bound(keras.Model(inputs, Halving()(inputs))).value == 0.5


def test_a_bound_beyond_float32_is_an_error():
    huge = keras.initializers.Constant(1e30)
    layers = [keras.layers.Dense(1, kernel_initializer=huge) for _ in range(2)]
    with pytest.raises(ValueError, match="beyond float32's range"):
        lipschitz.bound(chain(*layers))


def test_a_bound_is_never_zero():
    assert 0.0 < lipschitz.bound(chain(keras.layers.Dense(3, kernel_initializer="zeros"))).value < 1e-30


def test_the_peak_bounds_every_value_on_the_way():
    model = chain(dense(16, activation="relu"), dense(8), dense(4))
    bound = lipschitz.bound(model)
    x = np.random.default_rng(0).normal(size=(50, 8)).astype("float32")
    allowed = bound.peak_slope * np.linalg.norm(x, axis=-1) + bound.peak_intercept
    for layer in model.layers:
        x = np.asarray(layer(x))
        assert (np.linalg.norm(x, axis=-1) <= allowed).all()
