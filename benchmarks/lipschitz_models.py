"""Random Keras models over all kinds of layers: the proved bound against every slope that can be found.

`python benchmarks/lipschitz_models.py [number of models]`
"""

import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from clustr_keras import lipschitz

SEED = 0
POINTS = 20
ASCENT_STEPS = 30


def _pick(rng, *choices):
    return choices[rng.integers(len(choices))]


def _activation(rng):
    names = (
        "linear relu leaky_relu elu selu gelu silu mish tanh sigmoid softplus softsign hard_sigmoid hard_silu softmax"
    )
    return _pick(rng, *names.split(), "log_softmax", "relu6", "hard_tanh", "soft_shrink", "squareplus")


def _convolution(rng, layer_class, strided=True):
    """Options of a convolution that hold for every padding, stride, dilation and number of groups."""

    def apply(x):
        options = {"padding": _pick(rng, "same", "valid"), "activation": _pick(rng, None, "relu", "tanh")}
        if layer_class is layers.Conv1D:
            options["padding"] = _pick(rng, "same", "valid", "causal")
        if rng.random() < 0.5:
            options["strides"] = 2
        elif layer_class not in (layers.Conv3D, layers.Conv3DTranspose):
            options["dilation_rate"] = int(rng.integers(1, 3))
        size = int(rng.integers(1, 4)) if options.get("dilation_rate", 1) == 1 else 2
        if layer_class in (layers.Conv1D, layers.Conv2D) and x.shape[-1] % 2 == 0:
            options["groups"] = _pick(rng, 1, 2)
        if layer_class in (layers.DepthwiseConv1D, layers.DepthwiseConv2D):
            return layer_class(size, depth_multiplier=int(rng.integers(1, 3)), **options)(x)
        return layer_class(int(2 * rng.integers(1, 3)), size, **options)(x)

    return apply


def _pooling(rng, layer_class):
    def apply(x):
        options = {"pool_size": int(rng.integers(2, 4)), "strides": int(rng.integers(1, 4))}
        return layer_class(**options, padding=_pick(rng, "same", "valid"))(x)

    return apply


def _branches(rng, merge):
    def apply(x):
        left = layers.Activation(_activation(rng))(layers.EinsumDense("...x,xy->...y", x.shape[-1])(x))
        return merge([left, _pick(rng, x, layers.Dense(x.shape[-1])(x))])

    return apply


def makers(rng, rank):
    """Name -> function that applies one kind of layer to a tensor with `rank` axes within an example."""
    found = {
        "Dense": lambda x: layers.Dense(3, activation=_activation(rng))(x),
        "EinsumDense": lambda x: layers.EinsumDense("...x,xy->...y", 3, bias_axes="y", activation=_activation(rng))(x),
        "BatchNormalization": lambda x: layers.BatchNormalization(
            center=_pick(rng, True, False), scale=_pick(rng, True, False))(x),
        "Activation": lambda x: layers.Activation(_activation(rng))(x),
        "ReLU": lambda x: layers.ReLU(negative_slope=_pick(rng, 0.0, 1.5), max_value=_pick(rng, None, 1.0))(x),
        "LeakyReLU": lambda x: layers.LeakyReLU(0.3)(x),
        "PReLU": lambda x: layers.PReLU("random_normal")(x),
        "ELU": lambda x: layers.ELU(2.0)(x),
        "Softmax": lambda x: layers.Softmax(axis=-1)(x),
        "Dropout": lambda x: layers.GaussianNoise(0.1)(layers.Dropout(0.5)(x)),
        "Rescaling": lambda x: layers.Rescaling(_pick(rng, -2.0, list(rng.normal(size=x.shape[-1]))), offset=0.5)(x),
        "Normalization": lambda x: layers.Normalization(
            mean=list(rng.normal(size=x.shape[-1])), variance=list(rng.uniform(0.3, 2, size=x.shape[-1])),
            invert=_pick(rng, True, False))(x),
        "Identity": lambda x: layers.Identity()(x),
        "Add": _branches(rng, layers.Add()),
        "Subtract": _branches(rng, layers.Subtract()),
        "Average": _branches(rng, layers.Average()),
        "Concatenate": _branches(rng, layers.Concatenate()),
        "Maximum": _branches(rng, layers.Maximum()),
        "Minimum": _branches(rng, layers.Minimum()),
        "constants": lambda x: ops.maximum(x * rng.normal(size=x.shape[-1]).astype("float32") / 0.7 + 1.0, -1.0),
        "ops": lambda x: ops.concatenate([ops.relu(x), -ops.abs(x), ops.flip(x, -1), ops.tanh(x)[..., :1]], axis=-1),
        "ops.matmul": lambda x: ops.matmul(x, rng.normal(size=(x.shape[-1], 3)).astype("float32")),
        "ops.mean": lambda x: x - ops.mean(x, axis=-1, keepdims=True) + ops.sum(x, axis=-1, keepdims=True),
        "ops.clip": lambda x: ops.clip(ops.pad(x, [(0, 0)] * rank + [(1, 1)]), -1.0, 1.0),
        "ops.max": lambda x: x + ops.max(x, axis=-1, keepdims=True),
        "ops.gelu": lambda x: ops.gelu(x, approximate=_pick(rng, True, False)),
        "ops.split": lambda x: ops.stack(ops.split(ops.concatenate([x, x], -1), 2, axis=-1), axis=-1)[..., 0],
        "MaxMin": lambda x: lipschitz.MaxMin()(ops.concatenate([x, 0.5 * x], -1)),
        "nested": lambda x: keras.Sequential([keras.Input(x.shape[1:]), layers.Dense(3), layers.ReLU()])(x),
    }  # fmt: skip
    if rank == 1:
        return {
            **found,
            "OrthogonalDense": lambda x: lipschitz.OrthogonalDense(4)(x),
            "RepeatVector": lambda x: layers.Flatten()(layers.RepeatVector(3)(x)),
            "Reshape": lambda x: ops.reshape(layers.Reshape((1, x.shape[-1]))(x), (-1, x.shape[-1])),
        }
    found |= {"Permute": lambda x: layers.Permute((*range(2, rank + 1), 1))(x)}
    one = {2: "1D", 3: "2D", 4: "3D"}[rank]

    def named(stem):
        return getattr(layers, stem + one)

    for stem in ("Conv", "DepthwiseConv", "SeparableConv"):
        if hasattr(layers, stem + one):
            found[stem + one] = _convolution(rng, named(stem))
    found[f"Conv{one}Transpose"] = _convolution(rng, getattr(layers, f"Conv{one}Transpose"))
    for stem in ("AveragePooling", "MaxPooling"):
        found[stem + one] = _pooling(rng, named(stem))
    for stem in ("GlobalAveragePooling", "GlobalMaxPooling"):
        found[stem + one] = lambda x, stem=stem: named(stem)(keepdims=True)(x)
    found["ZeroPadding" + one] = lambda x: named("ZeroPadding")(1)(x)
    found["Cropping" + one] = lambda x: named("Cropping")(1)(named("ZeroPadding")(1)(x))
    found["UpSampling" + one] = lambda x: named("UpSampling")(2)(x)
    found["SpatialDropout" + one] = lambda x: named("SpatialDropout")(0.5)(x)
    if rank == 2:
        found["EinsumDense summing"] = lambda x: layers.Reshape((1, 4))(layers.EinsumDense("abc,cd->ad", 4)(x))
        found["TimeDistributed"] = lambda x: layers.TimeDistributed(layers.Dense(3))(x)
    if rank == 3:
        interpolation = _pick(rng, "bilinear", "bicubic", "lanczos3", "lanczos5")
        found["interpolation"] = lambda x: layers.UpSampling2D((2, 3), interpolation=interpolation)(x)
    return found


def random_model(index):
    """A model of three layers, its weights random; the first layer runs through all kinds with `index`."""
    rng = np.random.default_rng([SEED, index])
    keras.utils.set_random_seed(int(rng.integers(2**31)))
    kinds = [(rank, name) for rank in (1, 2, 3, 4) for name in makers(rng, rank)]
    rank, first = kinds[index % len(kinds)]
    shape = {1: (6,), 2: (5, 4), 3: (5, 4, 2), 4: (3, 4, 3, 2)}[rank]
    inputs = keras.Input(shape)
    x, used = inputs, []
    for name in (first, *rng.permutation(list(makers(rng, rank)))):
        if len(used) == 3 or np.prod(x.shape[1:]) > 150:
            break
        try:
            x = makers(rng, rank)[name](x)
            used.append(str(name))
        except ValueError:  # the windows or kernels do not fit any more
            continue
    x = layers.Flatten()(x)
    if x.shape[-1] > 12:
        x = layers.Dense(12)(x)
    model = keras.Model(inputs, x)
    for variable in model.weights:
        if "seed" in variable.path or "count" in variable.path:
            continue
        value = rng.normal(size=variable.shape) / np.sqrt(max(1, np.prod(variable.shape[:-1])))
        variable.assign(np.abs(value) + 0.1 if "variance" in variable.path else 2.0 * value)
    return model, used


def steepest_slope(model, seed):
    """The largest singular value of the Jacobian at random points, and the largest ratio found by gradient ascent."""
    rng = np.random.default_rng(seed)
    size = (POINTS, *model.input_shape[1:])
    x = (rng.normal(size=size) * rng.choice([0.1, 1.0, 3.0], size=(POINTS, *[1] * (len(size) - 1)))).astype("float32")
    width = model.output_shape[-1]
    repeated = tf.constant(np.repeat(x, width, axis=0))
    with tf.GradientTape() as tape:
        tape.watch(repeated)
        picked = tf.reduce_sum(model(repeated) * np.tile(np.eye(width, dtype="float32"), (POINTS, 1)))
    jacobians = tape.gradient(picked, repeated).numpy().reshape(POINTS, width, -1).astype("float64")
    _, values, right = np.linalg.svd(jacobians, full_matrices=False)
    pairs = tf.Variable(np.stack([x, x + 0.3 * right[:, 0].reshape(size).astype("float32")]))
    optimizer = keras.optimizers.Adam(0.03)
    steepest = 0.0
    for _ in range(ASCENT_STEPS):
        with tf.GradientTape() as tape:
            first, second = tf.split(model(tf.reshape(pairs, (2 * POINTS, *size[1:]))), 2)
            ratio = tf.norm(first - second, axis=1)
            ratio /= tf.maximum(tf.norm(tf.reshape(pairs[0] - pairs[1], (POINTS, -1)), axis=1), 1e-2)
            loss = -tf.reduce_sum(tf.math.log(ratio + 1e-12))
        steepest = max(steepest, float(tf.reduce_max(ratio)))
        optimizer.apply([tape.gradient(loss, pairs)], [pairs])
    return float(values[:, 0].max()), steepest


def main(count=300):
    from results import machine, write_results

    rows, kinds, violations = [], set(), 0
    for index in range(count):
        model, used = random_model(index)
        bound = lipschitz.bound(model).value
        jacobian, ratio = steepest_slope(model, index)
        kinds |= set(used)
        is_violated = max(jacobian, ratio) > bound * (1 + 2e-5)
        violations += is_violated
        if max(jacobian, ratio) > 0.0:  # else the model is constant
            rows.append((bound / max(jacobian, ratio), jacobian, ratio))
        if is_violated:
            print("violation:", index, used, bound, jacobian, ratio)
    slack = np.array([row[0] for row in rows])
    by_ratio = np.mean([row[2] > row[1] for row in rows])
    write_results(
        __file__,
        [
            {
                "what": "bound of random models against Jacobians at 20 points and gradient ascent on 20 pairs",
                "models": count,
                "kinds of layers": len(kinds),
                "violations": int(violations),
                "bound / steepest slope found, median": round(float(np.median(slack)), 3),
                "smallest": round(float(slack.min()), 6),
                "largest": round(float(slack.max()), 1),
                "share where a pair was steepest": round(float(by_ratio), 3),
                "seed": SEED,
                **machine(),
            }
        ],
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
