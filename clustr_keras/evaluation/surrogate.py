"""A network of its own that imitates a classifier, for attacks that are carried over."""

import keras
import numpy as np

from clustr_keras.backbones import convnet
from clustr_keras.evaluation.target import Target
from clustr_keras.types import Floats


def train_surrogate(
    target: Target, images: Floats, epochs: int = 8, batch_size: int = 64, width: int = 32, seed: int = 0
) -> keras.Model:
    """Trains a small convolutional network on the answers of a classifier.

    Its gradients are its own: a flip of the surrogate that flips the classifier as well was found without the
    classifier's gradient.

    Args:
        target: `Target` to imitate.
        images: float32 `[N, H, W, C]` that it is asked about, others than those to attack.
        epochs, batch_size: Integers, as for `fit`.
        width: Integer, of `backbones.convnet`.
        seed: Integer.

    Returns:
        A `keras.Model` from images to logits.

    Example:

    >>> surrogate = train_surrogate(target, x_train)
    """
    keras.utils.set_random_seed(seed)
    class_ids, _ = target.predict(images)
    backbone = convnet(images.shape[1:], width)
    outputs = keras.layers.Dense(target.num_classes)(keras.layers.ReLU()(backbone.output))
    model = keras.Model(backbone.input, outputs, name="surrogate")
    steps = epochs * -(-len(images) // batch_size)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps)), loss)
    model.fit(images, np.asarray(class_ids), batch_size, epochs, verbose=0)
    return model
