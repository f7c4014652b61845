"""Trains a network of deel-lip and writes its certified radii. Run by certified_accuracy.py in deel-lip's environment.

Settings: `network` "mlp", "convnet", "downsampled" or "strided"; `loss` "tau" (with `tau`) or "hkr" (with `alpha`,
`min_margin`); `widths` of the dense layers; `channels` of the stages of convolutions, and `convolutions` in each;
`batch_size`; `learning_rate`; `warmup`, a share of the time; `condense`, whether to project the kernels after each
step, as deel-lip advises for fewer iterations; `head` "frobenius" for the last layer of its tutorial on multiclass HKR;
those of `peer.batches`.
"""

import numpy as np
import tensorflow as tf
from deel.lip.activations import GroupSort2
from deel.lip.callbacks import CondenseCallback
from deel.lip.layers import FrobeniusDense, InvertibleDownSampling, ScaledL2NormPooling2D, SpectralConv2D, SpectralDense
from deel.lip.losses import MulticlassHKR, TauCategoricalCrossentropy
from deel.lip.model import Sequential
from peer import Budget, arguments, batches, write


def network(settings, input_shape):
    """The MLP of the others; stages of convolutions and a pooling layer; or the convnet of this project.

    That one, "downsampled", has stages of a downsampling without loss and one convolution; "strided" has stages of one
    convolution of 2 x 2 patches, whose kernel is orthogonal as it is. GroupSort2 is between all layers.
    """
    layers = [tf.keras.layers.Input(input_shape)]
    for channels in settings.get("channels", ()):
        if settings["network"] == "downsampled":
            layers += [InvertibleDownSampling((2, 2)), SpectralConv2D(channels, 3), GroupSort2()]
        elif settings["network"] == "strided":
            layers += [SpectralConv2D(channels, 2, strides=2), GroupSort2()]
        else:
            for _ in range(settings.get("convolutions", 2)):
                layers += [SpectralConv2D(channels, 3), GroupSort2()]
            layers.append(ScaledL2NormPooling2D(2))
    layers.append(tf.keras.layers.Flatten())
    for width in settings.get("widths", (512, 512, 256, 128)):
        layers += [SpectralDense(width), GroupSort2()]
    head = FrobeniusDense(10, use_bias=False) if settings.get("head") == "frobenius" else SpectralDense(10)
    return Sequential([*layers, head])


if __name__ == "__main__":
    asked = arguments()
    settings, data = asked.settings, np.load(asked.data)
    model = network(settings, data["x_train"].shape[1:])
    if settings["loss"] == "tau":
        loss = TauCategoricalCrossentropy(settings["tau"])
    else:
        loss = MulticlassHKR(alpha=settings["alpha"], min_margin=settings["min_margin"])
    batch_size = settings.get("batch_size", 256)
    model.compile(tf.keras.optimizers.Adam(), loss)
    budget = Budget(asked.seconds, settings.get("learning_rate", 1e-3), settings.get("warmup", 0.0))
    callbacks = [budget]
    if settings.get("condense"):
        callbacks.append(CondenseCallback(on_epoch=False, on_batch=True))
    dataset = batches(data, batch_size, asked.seed, settings, one_hot=True)
    model.fit(dataset, epochs=10**6, verbose=0, callbacks=callbacks)
    logits = model.vanilla_export().predict(data["x_test"], batch_size=500, verbose=0)
    first, second = -np.sort(-logits, axis=-1)[:, :2].T
    # As CategoricalProvableRobustAccuracy of deel-lip: where the whole output is 1-Lipschitz, the difference of two
    # entries is sqrt(2)-Lipschitz; where they are so one by one (disjoint neurons), it is 2-Lipschitz.
    factor = 2.0 if settings.get("head") == "frobenius" else np.sqrt(2.0)
    write(asked, logits.argmax(-1), (first - second) / factor, budget.clock, budget.steps / len(dataset))
