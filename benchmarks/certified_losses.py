"""Losses of the literature on certified training, and several clusters per class, in place of `CertifiedMarginLoss`.

Run: python benchmarks/certified_losses.py --data-dir DIR, with DIR a TensorFlow Datasets folder that holds mnist10k.
Writes results/certified_losses.*.

Network and schedule are those of `certified_accuracy.py`, for 60 seconds; seed 0, radii in real arithmetic. With z
the distance logits, y the class, T the temperature and m the margin:

- margin: CE(T (z - m onehot(y))), what the package has.
- rising margin: m grows from 0 over the first half of the training.
- annealed: the same times (1 - p_y)^beta, p_y the probability that it gives the class (logit annealing of Lai et al.,
  Enhancing Certified Robustness via Block Reflector Orthogonal Layers and Logit Annealing Loss, ICML 2025).
- adaptive margin: each rival gets what the example is ahead of it, as a constant, from m / 100 to m (EMMA of Hu et al.,
  Unlocking Deterministic Robustness Certification on ImageNet, NeurIPS 2023).
- certificate regularization: CE(T z) - gamma relu(z_y) (Singla, Singla and Feizi, Improved Deterministic l2 Robustness
  on CIFAR-10 and CIFAR-100, ICLR 2022).
"""

import argparse

import keras
from accuracies import accuracies
from budget import Budget, batches_of, fit_within
from certified_settings import COMPARISONS
from keras import ops
from results import machine, write_results

from clustr_keras import CertifiedMarginLoss, ClustrClassifier, backbones, lipschitz
from clustr_keras.data import as_floats, load

COMPARISON = COMPARISONS["mnist10k"]
SETTINGS = COMPARISON.settings["clustr_keras"][0]
TEMPERATURE = SETTINGS["temperature"]


class Variant(keras.losses.Loss):
    """One of the losses above."""

    acts_on = "logits"

    def __init__(self, margin=0.0, beta=0.0, gamma=0.0, is_adaptive=False, temperature=TEMPERATURE):
        super().__init__()
        self.temperature = temperature
        self.margin = keras.Variable(margin, trainable=False)
        self.beta, self.gamma, self.is_adaptive = beta, gamma, is_adaptive

    def call(self, y_true, y_pred):
        """Computes the loss per example."""
        labels = ops.cast(ops.reshape(y_true, (-1,)), "int32")
        is_label = ops.one_hot(labels, y_pred.shape[-1], dtype=y_pred.dtype)
        of_label = ops.sum(is_label * y_pred, axis=-1)
        margin = ops.convert_to_tensor(self.margin)
        if self.is_adaptive:
            ahead = ops.expand_dims(of_label, -1) - y_pred
            margin = ops.stop_gradient(ops.clip(ahead, 0.01 * margin, margin))
        logits = self.temperature * (y_pred + margin * (1.0 - is_label))
        loss = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        if self.beta:
            loss *= (1.0 - ops.exp(-loss)) ** self.beta
        return loss - self.gamma * ops.relu(of_label)


class Rising(keras.callbacks.Callback):
    """The margin rises to its value over the first half of the budget."""

    def __init__(self, loss, margin, budget):
        super().__init__()
        self.loss, self.margin, self.budget = loss, margin, budget

    def on_train_batch_begin(self, batch, logs=None):
        """Sets the margin."""
        self.loss.margin.assign(self.margin * min(1.0, 2.0 * self.budget.share))


VARIANTS = {
    **{
        f"margin {m:g}, temperature {t:g}": {"margin": m, "temperature": t}
        for m, t in ((2.5, 4), (4, 4), (5, 3), (6, 2))
    },
    **{f"rising margin {margin:g}": {"margin": margin, "is_rising": True} for margin in (4.0, 4.5)},
    **{f"annealed, beta {beta:g}, margin 4": {"margin": 4.0, "beta": beta} for beta in (1.0, 5.0)},
    **{f"adaptive margin {margin:g}": {"margin": margin, "is_adaptive": True} for margin in (2.5, 4.0)},
    **{f"certificate regularization {gamma:g}": {"gamma": gamma} for gamma in (1.5, 4.0)},
    "margin 4, 2 clusters per class": {"margin": 4.0, "clusters": 2},
}


def train(data, seconds, margin=0.0, temperature=TEMPERATURE, is_rising=False, clusters=1, **settings):
    """A trained classifier."""
    keras.utils.set_random_seed(0)
    backbone = getattr(backbones, SETTINGS["backbone"])(data.train.images.shape[1:], **SETTINGS["sizes"])
    model = ClustrClassifier(backbone, num_classes=10, clusters_per_class=clusters)
    make_loss = Variant if settings or is_rising else CertifiedMarginLoss
    loss = make_loss(margin=margin, temperature=temperature, **settings)
    model.compile(lipschitz.orthogonal_optimizer(), loss)
    batches = batches_of(as_floats(data.train.images), data.train.labels, SETTINGS)
    budget = Budget(seconds, SETTINGS["learning_rate"])
    fit_within(budget, model, batches, [Rising(loss, margin, budget)] if is_rising else [])
    return model, budget


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    asked = parser.parse_args()
    mnist, rows = load("mnist10k", asked.data_dir), []
    for name, variant in VARIANTS.items():
        model, budget = train(mnist, asked.seconds, **variant)
        certificate = model.certify(as_floats(mnist.test.images), method="exact")
        shares = accuracies(certificate.class_ids, certificate.radius, mnist.test.labels, COMPARISON.radii)
        row = {"loss": name, **shares, "steps": budget.steps, "cpu_s": f"{budget.clock.cpu:.0f}"}
        rows.append({**row, "training_s": f"{budget.clock.spent:.0f}", "seed": 0, **machine()})
        print(rows[-1], flush=True)
    write_results(__file__, rows)
