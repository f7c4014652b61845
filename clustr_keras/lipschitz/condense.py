"""Folds parametrized layers into plain ones for inference."""

import keras


def condense(model):
    """A copy of a model for inference, with the kernels of parametrized layers stored as plain weights.

    `OrthogonalDense` becomes `keras.layers.Dense`; every layer of ours that has a `condensed()` method is replaced by
    what that gives. The outputs agree to float32 rounding, and a certificate of the copy is one for fixed float32
    kernels: nothing is computed from other weights on the way.

    Args:
        model: A functional or Sequential `keras.Model`, nested ones included.

    Returns:
        A model of the same kind with weights of its own.

    Example:

    >>> plain = lipschitz.condense(model.backbone)
    """

    def copy(layer):
        if hasattr(layer, "condensed"):
            return layer.condensed()
        return layer.__class__.from_config(layer.get_config())

    copied = keras.models.clone_model(model, clone_function=copy, recursive=True)
    for source, target in zip(_leaves(model), _leaves(copied), strict=True):
        if not hasattr(source, "condensed"):
            target.set_weights(source.get_weights())
    return copied


def _leaves(model):
    return [layer for layer in model._flatten_layers(include_self=False) if not isinstance(layer, keras.Model)]
