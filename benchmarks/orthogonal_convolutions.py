"""Ways to make a convolution orthogonal: certified accuracy of one network after the same seconds of training.

Run: python benchmarks/orthogonal_convolutions.py --data-dir DIR [--seconds 60], with DIR a TensorFlow Datasets folder
that holds `cifar10`. Writes results/orthogonal_convolutions.*.

The network of `certified_recipe("cifar10")`, with its loss and batches, on the first 10,000 training images, but with
images that wrap around, as the others need it, and without mirror averages; each way at three peaks of Adam's learning
rate. Only the layer that convolves differs:

- `OrthogonalConv2D` of this project: a product of projections (BCOP, Li et al., NeurIPS 2019);
- Cayley transform at each frequency (Trockman and Kolter, ICLR 2021);
- block reflector at each frequency, of rank half the channels (BRO, Lai et al., ICML 2025);
- exponential of a skew-symmetric convolution, six terms of its series in training and twelve at evaluation (SOC,
  Singla and Feizi, ICML 2021);
- `LipschitzResidualConv2D` of this project behind a 1x1 convolution (SLL, Araujo et al., ICLR 2023).

The three in the middle are written here from their papers' formulas, without what their authors' code adds (a learned
scale for Cayley, the smallest of four bounds for SOC). They are orthogonal as far as rounding and the end of the series
allow, with no proof for float32: their certified accuracy is in real arithmetic. Where the number of channels changes,
they act on the larger number, with zeros for what is not there. The last rows are the first ones under the recipe's own
optimizer, whose steps are of matrices, which the kernels of the others are not: they show what the optimizer adds, not
what the layer does.
"""

import argparse

import keras
import tensorflow as tf
from accuracies import accuracies_of_logits
from budget import Budget, fit_within
from results import machine, write_results

from clustr_keras import CertifiedMarginLoss, ClustrClassifier, lipschitz
from clustr_keras.data import ImageBatches, Split, as_floats, load
from clustr_keras.lipschitz import (
    LipschitzResidualConv2D,
    MaxMin,
    OrthogonalConv2D,
    OrthogonalDense,
    SpaceToDepth,
    orthogonal_optimizer,
)
from clustr_keras.training import certified_recipe

RECIPE = certified_recipe("cifar10")


class _SquareConvolution(keras.layers.Layer):
    """Convolution that wraps around, from n to n channels; fewer come in or go out with zeros in place of the rest."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters

    def build(self, input_shape):
        """Makes the weights."""
        self.size = input_shape[1:3]
        self.channels = max(self.filters, input_shape[-1])
        self.raw_kernel = self.add_weight(shape=(3, 3, self.channels, self.inner), initializer=self.initializer)
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros")

    @property
    def inner(self):
        """Number of filters of the stored kernel."""
        return self.channels

    initializer = "glorot_uniform"

    def call(self, inputs, training=False):
        """Convolves."""
        missing = self.channels - inputs.shape[-1]
        outputs = self.apply(tf.pad(inputs, [[0, 0], [0, 0], [0, 0], [0, missing]]), training)
        return outputs[..., : self.filters] + self.bias


class _AtEachFrequency(_SquareConvolution):
    """Multiplies by an orthogonal matrix at each frequency."""

    def apply(self, images, training):
        """Transforms, multiplies, transforms back."""
        height, width = self.size
        signals = tf.signal.rfft2d(tf.transpose(images, (0, 3, 1, 2)))
        signals = tf.transpose(signals, (2, 3, 1, 0))  # [height, frequencies, channels, B]
        kernel = tf.pad(self.raw_kernel, [[0, height - 3], [0, width - 3], [0, 0], [0, 0]])
        kernel = tf.roll(kernel, (-1, -1), (0, 1))  # around the pixel itself
        response = tf.signal.rfft2d(tf.transpose(kernel, (2, 3, 0, 1)))
        outputs = self.multiplied(tf.transpose(response, (2, 3, 0, 1)), signals)
        outputs = tf.signal.irfft2d(tf.transpose(outputs, (3, 2, 0, 1)), fft_length=(height, width))
        return tf.transpose(outputs, (0, 2, 3, 1))


class Cayley(_AtEachFrequency):
    """`(I + A)^-1 (I - A)`, with A the skew-Hermitian part of the response."""

    def multiplied(self, response, signals):
        """Applies the transform."""
        skew = response - tf.linalg.adjoint(response)
        one = tf.eye(self.channels, dtype=skew.dtype)
        return tf.linalg.solve(one + skew, signals - tf.matmul(skew, signals))


class BlockReflector(_AtEachFrequency):
    """`I - 2 V (V^* V)^-1 V^*`, with V the response of half as many filters as channels."""

    @property
    def inner(self):
        """Rank of the reflection."""
        return self.channels // 2

    def multiplied(self, response, signals):
        """Reflects."""
        gram = tf.matmul(response, response, adjoint_a=True)
        inside = tf.linalg.solve(gram, tf.matmul(response, signals, adjoint_a=True))
        return signals - 2.0 * tf.matmul(response, inside)


class SkewExponential(_SquareConvolution):
    """`x + L x + L^2 x / 2 + ...`, with L the skew-symmetric part of the convolution, scaled to norm at most 1."""

    def build(self, input_shape):
        """Makes the weights."""
        super().build(input_shape)
        self.vector = self.add_weight(shape=(1, self.channels), initializer="random_normal", trainable=False)

    def apply(self, images, training):
        """Sums the series."""
        kernel = self.raw_kernel
        skew = kernel - tf.transpose(tf.reverse(kernel, (0, 1)), (0, 1, 3, 2))
        matrix = tf.reshape(skew, (-1, self.channels))
        vector = tf.stop_gradient(tf.linalg.l2_normalize(self.vector @ tf.transpose(matrix) @ matrix, axis=-1))
        if training:
            self.vector.assign(vector)
        # Three times the norm of that matrix bounds that of the convolution.
        skew /= tf.maximum(1.0, 3.0 * tf.norm(tf.matmul(matrix, vector, transpose_b=True)))
        outputs = term = images
        for degree in range(1, 6 if training else 12):
            padded = tf.concat([term[:, -1:], term, term[:, :1]], axis=1)
            padded = tf.concat([padded[:, :, -1:], padded, padded[:, :, :1]], axis=2)
            term = tf.nn.conv2d(padded, skew, 1, "VALID") / degree
            outputs += term
        return outputs


for layer in (Cayley, BlockReflector, SkewExponential):
    lipschitz.register(layer, one_lipschitz=True)(lambda call: lipschitz.LayerBound(1.0, "orthogonal in theory"))


def residual(filters):
    """A 1x1 orthogonal convolution and a residual layer behind it."""

    def apply(x):
        return LipschitzResidualConv2D(filters)(OrthogonalConv2D(filters, 1)(x))

    return apply


_RATES = (2.5e-3, 5e-3, 1e-2)
# Layer, optimizer, peaks of the learning rate.
WAYS = {
    "OrthogonalConv2D (BCOP)": (OrthogonalConv2D, keras.optimizers.Adam, _RATES),
    "Cayley": (Cayley, keras.optimizers.Adam, _RATES),
    "block reflector (BRO)": (BlockReflector, keras.optimizers.Adam, _RATES),
    "skew exponential (SOC)": (SkewExponential, keras.optimizers.Adam, _RATES),
    "LipschitzResidualConv2D (SLL)": (residual, keras.optimizers.Adam, _RATES),
    "OrthogonalConv2D under orthogonal_optimizer": (OrthogonalConv2D, orthogonal_optimizer, (1e-2, 2e-2, 4e-2)),
}


def classifier(convolution, channels=(32, 64), dense=(256, 128)):
    """`lipschitz_convnet` with another convolution."""
    images = x = keras.Input((32, 32, 3))
    for filters in channels:
        x = MaxMin()(convolution(filters)(SpaceToDepth(2)(x)))
    x = keras.layers.Flatten()(x)
    for index, size in enumerate(dense):
        x = OrthogonalDense(size)(MaxMin()(x) if index else x)
    return ClustrClassifier(keras.Model(images, x), 10)


def measured(name, learning_rate, dataset, seconds, seed):
    """A row: steps made, accuracy, certified accuracy."""
    convolution, optimizer, _ = WAYS[name]
    keras.utils.set_random_seed(seed)
    model = classifier(convolution)
    model.compile(optimizer(), CertifiedMarginLoss(RECIPE.temperature, RECIPE.margin))
    split = Split(dataset.train.images[:10_000], dataset.train.labels[:10_000])
    batches = ImageBatches(split, RECIPE.batch_size, RECIPE.augmentation, seed=seed)
    budget = Budget(seconds, learning_rate)
    fit_within(budget, model, batches)
    logits = model.predict(as_floats(dataset.test.images), batch_size=500, verbose=0)
    return {
        "convolution": name,
        "learning_rate": learning_rate,
        **accuracies_of_logits(logits, dataset.test.labels, [RECIPE.watched_radius]),
        "ms_per_step": round(1000 * budget.clock.spent / budget.steps),
        "epochs": round(budget.steps / len(batches), 1),
        "seconds": seconds,
        "seed": seed,
        **machine(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(WAYS), nargs="+", default=list(WAYS))
    asked = parser.parse_args()
    cifar10 = load("cifar10", asked.data_dir)
    trials = [(name, rate) for name in asked.only for rate in WAYS[name][2]]
    write_results(__file__, [measured(*trial, cifar10, asked.seconds, asked.seed) for trial in trials])
