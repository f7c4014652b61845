"""Ways to keep a dense kernel orthogonal: certified accuracy of one network after the same seconds of training.

Run: python benchmarks/orthogonal_dense.py --data-dir DIR [--seconds 30], with DIR a TensorFlow Datasets folder that
holds mnist10k. Writes results/orthogonal_dense.*.

The MLP, loss, augmentation and schedule of `certified_accuracy.py` with margin 4, seed 0, radii in real arithmetic;
each way at three peaks of the learning rate, of which the best at 1.0 is shown as well as the others.

Ways to make the kernel of a stored matrix:

- `OrthogonalDense` of this project: a retraction after each step of the optimizer, one Newton-Schulz step in the graph,
  whose gradient is the projection onto the tangent space;
- retraction alone: the same without the step in the graph, so that gradients are those of a plain kernel;
- Newton-Schulz in the graph, fifteen steps behind a power method, as in Anil, Lucas and Grosse, ICML 2019;
- Cayley transform of a skew-symmetric matrix (Trockman and Kolter, ICLR 2021);
- block reflector of half the rank (BRO, Lai et al., ICML 2025).

Optimizers of kernels that are retracted after each step:

- momentum in the tangent space: Adam whose first moment and step are projected at each new kernel;
- Riemannian Adam: that with one second moment for a whole kernel (Becigneul and Ganea, ICLR 2019);
- Cayley Adam: that with steps along the Cayley transform's curve (Li, Fuxin and Todorovic, ICLR 2020);
- Muon: Keras' optimizer of that name, whose steps are the momentum's nearest orthogonal matrix, found by some
  iterations, as long as those of Adam (Jordan et al., 2024; Liu et al., Muon is scalable, 2025); and our setting of it,
  `orthogonal_optimizer`, where nothing decays and the momentum is shorter.
"""

import argparse
import functools

import keras
import numpy as np
import tensorflow as tf
from accuracies import accuracies_of_logits
from budget import Budget, batches_of, fit_within
from certified_settings import COMPARISONS
from results import machine, write_results

from clustr_keras import CertifiedMarginLoss, ClustrClassifier, lipschitz
from clustr_keras.data import as_floats, load
from clustr_keras.lipschitz import MaxMin, OrthogonalDense, Orthonormal, orthogonal_optimizer

COMPARISON = COMPARISONS["mnist10k"]
SETTINGS = next(settings for settings in COMPARISON.settings["clustr_keras"] if settings["margin"] == 4.0)


def _newton_schulz(w):
    """One step towards the nearest matrix with orthonormal columns, or rows where they are fewer."""
    if w.shape[0] < w.shape[1]:
        return tf.transpose(_newton_schulz(tf.transpose(w)))
    return 1.5 * w - 0.5 * w @ tf.matmul(w, w, transpose_a=True)


def _projected(w, matrix):
    """A matrix projected onto the tangent space at an orthogonal `w`."""
    if w.shape[0] < w.shape[1]:
        return tf.transpose(_projected(tf.transpose(w), tf.transpose(matrix)))
    product = tf.matmul(w, matrix, transpose_a=True)
    return matrix - 0.5 * w @ (product + tf.transpose(product))


class Retracted(OrthogonalDense):
    """The stored matrix is the kernel."""

    @property
    def kernel(self):
        """The kernel in use."""
        return tf.convert_to_tensor(self.raw_kernel)


class _Free(OrthogonalDense):
    """The stored matrix may be any."""

    def build(self, input_shape):
        """Makes the weights."""
        super().build(input_shape)
        self.raw_kernel.constraint = None

    @property
    def kernel(self):
        """The kernel in use."""
        w = tf.convert_to_tensor(self.raw_kernel)
        return self.orthogonal(w) if w.shape[0] >= w.shape[1] else tf.transpose(self.orthogonal(tf.transpose(w)))


class InGraph(_Free):
    """Fifteen Newton-Schulz steps of the matrix over its spectral norm."""

    def build(self, input_shape):
        """Makes the weights."""
        super().build(input_shape)
        size = min(input_shape[-1], self.units)
        self.vector = self.add_weight(shape=(size, 1), initializer="random_normal", trainable=False)

    def orthogonal(self, w):
        """The orthogonal matrix."""
        vector = tf.stop_gradient(tf.linalg.l2_normalize(tf.matmul(w, w @ self.vector, transpose_a=True)))
        self.vector.assign(vector)
        w /= tf.norm(w @ vector)
        for _ in range(15):
            w = _newton_schulz(w)
        return w


class Cayley(_Free):
    """`(I + A)^-1 (I - A)` above `-2 V (I + A)^-1`, with `A = U - U^T + V^T V`, of a matrix with U above V."""

    def orthogonal(self, w):
        """The orthogonal matrix."""
        size = w.shape[1]
        upper, lower = w[:size], w[size:]
        skew = upper - tf.transpose(upper) + tf.matmul(lower, lower, transpose_a=True)
        one = tf.eye(size)
        inverse = tf.linalg.inv(one + skew)
        return tf.concat([inverse @ (one - skew), -2.0 * lower @ inverse], axis=0)


class BlockReflector(_Free):
    """The first columns of `I - 2 V (V^T V)^-1 V^T`, V of half as many columns."""

    def build(self, input_shape):
        """Makes the weights."""
        super().build(input_shape)
        self.raw_kernel.trainable = False  # only its shape is used
        rows = max(input_shape[-1], self.units)
        self.directions = self.add_weight(shape=(rows, rows // 2), initializer="random_normal")

    @property
    def kernel(self):
        """The kernel in use."""
        v = tf.convert_to_tensor(self.directions)
        columns = min(self.raw_kernel.shape)
        inside = tf.linalg.solve(tf.matmul(v, v, transpose_a=True), tf.transpose(v[:columns]))
        kernel = tf.eye(v.shape[0], columns) - 2.0 * v @ inside
        return kernel if self.raw_kernel.shape[0] >= self.raw_kernel.shape[1] else tf.transpose(kernel)


for layer in (Retracted, InGraph, Cayley, BlockReflector):
    lipschitz.register(layer, one_lipschitz=True)(lambda call: lipschitz.LayerBound(1.0, "but for the defect"))


class TangentAdam(keras.optimizers.Adam):
    """Adam with its momentum in the tangent space."""

    has_one_scale = False

    def update_step(self, gradient, variable, learning_rate):
        """Takes a step of one variable."""
        index = self._get_variable_index(variable)
        # What comes in is TensorFlow's variable, which knows of no constraint.
        if not isinstance(self._trainable_variables[index].constraint, Orthonormal):
            super().update_step(gradient, variable, learning_rate)
            return
        w = tf.convert_to_tensor(variable)
        step = tf.cast(self.iterations + 1, "float32")
        gradient = _projected(w, gradient)
        first, second = self._momentums[index], self._velocities[index]
        first.assign(self.beta_1 * _projected(w, tf.convert_to_tensor(first.value)) + (1.0 - self.beta_1) * gradient)
        square = tf.fill(gradient.shape, tf.reduce_mean(gradient**2)) if self.has_one_scale else gradient**2
        second.assign(self.beta_2 * second + (1.0 - self.beta_2) * square)
        momentum = first / (1.0 - self.beta_1**step)
        scale = tf.sqrt(second / (1.0 - self.beta_2**step)) + self.epsilon
        variable.assign(self.moved(w, momentum, scale, learning_rate))

    def moved(self, w, momentum, scale, learning_rate):
        """The kernel after the step; the constraint comes then."""
        return w - learning_rate * _projected(w, momentum / scale)


class RiemannianAdam(TangentAdam):
    """One second moment for a kernel."""

    has_one_scale = True


class CayleyAdam(RiemannianAdam):
    """Steps along the Cayley transform's curve, by two fixed-point iterations."""

    def moved(self, w, momentum, scale, learning_rate):
        """The kernel after the step."""
        if w.shape[0] < w.shape[1]:
            moved = self.moved(tf.transpose(w), tf.transpose(momentum), tf.transpose(scale), learning_rate)
            return tf.transpose(moved)
        direction = learning_rate * momentum / scale

        def turned(y):
            # (P W^T - W P^T) y, with P = (I - W W^T / 2) times the direction.
            p = direction - 0.5 * w @ tf.matmul(w, direction, transpose_a=True)
            return p @ tf.matmul(w, y, transpose_a=True) - w @ tf.matmul(p, y, transpose_a=True)

        y = w - direction
        for _ in range(2):
            y = w - 0.5 * turned(w + y)
        return y


_RATES = (3.5e-3, 7e-3, 1.4e-2)
_MUON_RATES = (1.5e-2, 3e-2, 6e-2)


def _muon(steps):
    """`orthogonal_optimizer` with another number of iterations."""
    return functools.partial(orthogonal_optimizer, ns_steps=steps)


# Layer, optimizer, peaks of the learning rate.
WAYS = {
    "OrthogonalDense": (OrthogonalDense, keras.optimizers.Adam, _RATES),
    "retraction alone": (Retracted, keras.optimizers.Adam, _RATES),
    "Newton-Schulz in the graph": (InGraph, keras.optimizers.Adam, _RATES),
    "Cayley": (Cayley, keras.optimizers.Adam, _RATES),
    "block reflector (BRO)": (BlockReflector, keras.optimizers.Adam, _RATES),
    "momentum in the tangent space": (Retracted, TangentAdam, _RATES),
    "Riemannian Adam": (Retracted, RiemannianAdam, _RATES),
    "Cayley Adam": (Retracted, CayleyAdam, _RATES),
    "OrthogonalDense under Keras' Muon": (OrthogonalDense, keras.optimizers.Muon, _RATES),
    **{
        f"OrthogonalDense under ours, {steps} iterations": (OrthogonalDense, _muon(steps), _MUON_RATES)
        for steps in (2, 3, 5)
    },
    "retraction alone under ours": (Retracted, _muon(3), _MUON_RATES),
    "Cayley under ours": (Cayley, _muon(3), _MUON_RATES),
    "block reflector under ours": (BlockReflector, _muon(3), _MUON_RATES),
}


def classifier(dense, widths):
    """`lipschitz_mlp` with another dense layer."""
    images = keras.Input((28, 28, 1))
    x = keras.layers.Flatten()(images)
    for index, width in enumerate(widths):
        x = dense(width)(MaxMin()(x) if index else x)
    return ClustrClassifier(keras.Model(images, x), 10)


def defect(model):
    """Largest distance of a kernel's singular values from 1."""
    kernels = [layer.kernel for layer in model.backbone.layers if isinstance(layer, OrthogonalDense)]
    return max(np.abs(np.linalg.svd(np.float64(kernel), compute_uv=False) - 1.0).max() for kernel in kernels)


def measured(name, learning_rate, dataset, seconds):
    """A row: steps made, accuracies."""
    dense, optimizer, _ = WAYS[name]
    keras.utils.set_random_seed(0)
    model = classifier(dense, SETTINGS["sizes"]["widths"])
    model.compile(optimizer(), CertifiedMarginLoss(SETTINGS["temperature"], SETTINGS["margin"]))
    batches = batches_of(as_floats(dataset.train.images), dataset.train.labels, SETTINGS)
    budget = Budget(seconds, learning_rate)
    fit_within(budget, model, batches)
    logits = model.predict(as_floats(dataset.test.images), batch_size=500, verbose=0)
    return {
        "way": name,
        "learning_rate": learning_rate,
        **accuracies_of_logits(logits, dataset.test.labels, COMPARISON.radii),
        "ms_per_step": round(1000 * budget.clock.spent / budget.steps, 1),
        "epochs": round(budget.steps / len(batches)),
        "defect": f"{defect(model):.1g}",
        "seconds": seconds,
        **machine(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--only", choices=list(WAYS), nargs="+", default=list(WAYS))
    asked = parser.parse_args()
    mnist10k = load("mnist10k", asked.data_dir)
    trials = [(name, rate) for name in asked.only for rate in WAYS[name][2]]
    write_results(__file__, [measured(name, rate, mnist10k, asked.seconds) for name, rate in trials])
