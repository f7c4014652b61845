"""Classifiers that are traced and written within a second."""

import keras

from clustr_keras import ClustrClassifier


def plain_classifier(input_shape, *layers, clusters_per_class=1):
    inputs = outputs = keras.Input(input_shape)
    for layer in layers:
        outputs = layer(outputs)
    return ClustrClassifier(keras.Model(inputs, outputs, name="my_backbone"), 3, clusters_per_class)


def small_classifier():
    """One that is traced and written within a second."""
    return plain_classifier((4, 4, 1), keras.layers.Flatten(), keras.layers.Dense(5))
