"""How tight the bound of one layer is, and how long that of a ResNet-18 takes.

`python benchmarks/lipschitz_bound.py`
"""

import time

import keras
import numpy as np
import scipy.sparse.linalg
import tensorflow as tf
from results import machine, write_results

from clustr_keras import lipschitz

SEED = 0


def norm_by_lanczos(layer, shape):
    """The largest singular value of a linear layer (with its bias taken off) on inputs of one shape, converged."""
    size = int(np.prod(shape))
    zero = tf.zeros((1, *shape))
    offset = layer(zero)

    @tf.function
    def forward(x):
        return layer(tf.reshape(x, (1, *shape))) - offset

    @tf.function
    def adjoint(y):
        with tf.GradientTape() as tape:
            tape.watch(zero)
            value = tf.reduce_sum(layer(zero) * tf.reshape(y, offset.shape))
        return tape.gradient(value, zero)

    operator = scipy.sparse.linalg.LinearOperator(
        (int(np.prod(offset.shape)), size),
        matvec=lambda x: forward(tf.constant(x, "float32")).numpy().ravel().astype("float64"),
        rmatvec=lambda y: adjoint(tf.constant(y, "float32")).numpy().ravel().astype("float64"),
        dtype="float64",
    )
    start = np.random.default_rng(SEED).normal(size=min(operator.shape))
    return float(scipy.sparse.linalg.svds(operator, 1, tol=1e-5, v0=start, return_singular_vectors=False)[0])


def smoothing(shape, dtype=None):
    """A kernel with its largest norm at frequency 0, as trained ones tend to have."""
    return keras.random.uniform(shape, 0.0, 1.0, dtype=dtype, seed=SEED)


def layers_to_measure():
    conv = keras.layers.Conv2D
    he = keras.initializers.HeNormal(seed=SEED)
    for channels in (3, 16, 32, 64):
        yield "3x3, same, random", conv(channels, 3, padding="same", kernel_initializer=he), (32, 32, channels)
        yield "3x3, same, positive", conv(channels, 3, padding="same", kernel_initializer=smoothing), (32, 32, channels)
    yield "3x3, valid, random", conv(64, 3, kernel_initializer=he), (32, 32, 64)
    yield "3x3, stride 2, random", conv(64, 3, 2, padding="same", kernel_initializer=he), (32, 32, 32)
    yield "5x5, same, random", conv(32, 5, padding="same", kernel_initializer=he), (32, 32, 32)
    yield "3x3, depthwise", keras.layers.DepthwiseConv2D(3, depthwise_initializer=he), (32, 32, 64)
    yield "3x3, transposed, stride 2", keras.layers.Conv2DTranspose(32, 3, 2, kernel_initializer=he), (16, 16, 32)
    yield "dense", keras.layers.Dense(512, kernel_initializer=he), (784,)
    yield "dense, orthogonal", keras.layers.Dense(512, kernel_initializer="orthogonal"), (784,)


def resnet_18():
    """ResNet-18 for 32x32 images, without its last layer, from images in [0, 1] to 512-d embeddings."""

    def convolution(x, filters, size, strides=1):
        x = keras.layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
        return keras.layers.BatchNormalization()(x)

    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 0.25, offset=-0.5 / 0.25)(inputs)
    x = keras.layers.ReLU()(convolution(x, 64, 3))
    for filters in (64, 128, 256, 512):
        for block in range(2):
            strides = 2 if block == 0 and filters > 64 else 1
            y = keras.layers.ReLU()(convolution(x, filters, 3, strides))
            y = convolution(y, filters, 3)
            short = convolution(x, filters, 1, strides) if strides > 1 else x
            x = keras.layers.ReLU()(keras.layers.Add()([y, short]))
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


def timed(function, *args):
    start = time.perf_counter()
    value = function(*args)
    return value, time.perf_counter() - start


def main():
    keras.utils.set_random_seed(SEED)
    rows = []
    for what, layer, shape in layers_to_measure():
        layer.build((None, *shape))
        (bound, seconds), norm = timed(lipschitz.bound, layer, shape), norm_by_lanczos(layer, shape)
        rows.append([what, shape, f"{bound.value:.5g}", f"{norm:.5g}", f"{bound.value / norm:.4f}", seconds])
    model = resnet_18()
    bound, seconds = timed(lipschitz.bound, model)
    rows.append(["ResNet-18, random", (32, 32, 3), f"{bound.value:.4g}", "", "", seconds])
    names = ("what", "input", "bound", "norm by Lanczos", "bound / norm")
    rows = [
        {**dict(zip(names, row, strict=False)), "seconds": round(row[-1], 2), "seed": SEED, **machine()} for row in rows
    ]
    write_results(__file__, rows)


if __name__ == "__main__":
    main()
