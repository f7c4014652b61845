"""Folds parametrized layers into plain ones for inference."""

import keras

from clustr_keras.lipschitz.registry import is_registered


def condense(model: keras.Model) -> keras.Model:
    """A copy of a model for inference, with the kernels of parametrized layers stored as plain weights.

    `OrthogonalDense` becomes `keras.layers.Dense`, `OrthogonalConv2D` becomes `keras.layers.Conv2D` or, where images
    wrap around, `CircularConv2D`. Every other layer with a bound and a `condensed()` method becomes what that gives:
    residual layers and `HouseholderActivation`, for which Keras has no layer of the same bound, keep their form with
    the weights that they compute stored. The outputs agree to float32 rounding, and a certificate of the copy is
    one for fixed float32 kernels: nothing is computed from other weights on the way.

    Args:
        model: A functional or Sequential `keras.Model`, nested ones included.

    Returns:
        A model of the same kind with weights of its own.

    Example:

    >>> plain = lipschitz.condense(model.backbone)
    """

    def copy(layer):
        # A subclass may compute something else than what its parent condenses to.
        return layer.condensed() if is_registered(layer) and hasattr(layer, "condensed") else copy_layer(layer)

    return keras.models.clone_model(model, clone_function=copy, recursive=True)


def copy_layer(layer: keras.Operation) -> keras.Operation:
    """A layer, or an operation of `keras.ops`, of the same class with the same configuration and weights."""
    copied = layer.__class__.from_config(layer.get_config())
    if isinstance(layer, keras.layers.Layer) and layer.weights:
        copied.build_from_config(layer.get_build_config())
        copied.set_weights(layer.get_weights())
    return copied
