"""Trains a network of deel-lip and writes its certified radii. Run by certified_accuracy.py in deel-lip's environment.

Settings: `loss` "tau" (with `tau`) or "hkr" (with `alpha`, `min_margin`); `widths`; `affine`; `learning_rate`.
"""

import numpy as np
import tensorflow as tf
from deel.lip.activations import GroupSort2
from deel.lip.layers import SpectralDense
from deel.lip.losses import MulticlassHKR, TauCategoricalCrossentropy
from deel.lip.model import Sequential
from peer import Budget, arguments, batches, write

if __name__ == "__main__":
    asked = arguments()
    settings, data = asked.settings, np.load(asked.data)
    layers = [tf.keras.layers.Input(data["x_train"].shape[1:]), tf.keras.layers.Flatten()]
    for width in settings.get("widths", (512, 512, 256, 128)):
        layers += [SpectralDense(width), GroupSort2()]
    model = Sequential([*layers, SpectralDense(10)])
    if settings["loss"] == "tau":
        loss = TauCategoricalCrossentropy(settings["tau"])
    else:
        loss = MulticlassHKR(alpha=settings["alpha"], min_margin=settings["min_margin"])
    batch_size = settings.get("batch_size", 256)
    model.compile(tf.keras.optimizers.Adam(), loss)
    budget = Budget(asked.seconds, settings.get("learning_rate", 1e-3))
    dataset = batches(data, batch_size, asked.seed, settings.get("affine"), one_hot=True)
    model.fit(dataset, epochs=10**6, verbose=0, callbacks=[budget])
    logits = model.vanilla_export().predict(data["x_test"], batch_size=500, verbose=0)
    first, second = -np.sort(-logits, axis=-1)[:, :2].T
    # The whole output is 1-Lipschitz, so a difference of two of its entries is sqrt(2)-Lipschitz.
    write(asked, logits, (first - second) / np.sqrt(2.0), budget.spent, budget.steps / len(dataset))
