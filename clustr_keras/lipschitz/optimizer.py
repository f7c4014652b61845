"""The optimizer for networks of orthogonal kernels."""

from typing import Any

import keras


def orthogonal_optimizer(
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1e-2, **kwargs: Any
) -> keras.optimizers.Muon:
    """Muon, set for kernels that are orthogonal: the optimizer of the certified recipe.

    A step of a matrix is its momentum brought near to the nearest orthogonal matrix, by three iterations, so that all
    directions move by about as much; what is no matrix, such as biases, centers and the kernels of
    `LipschitzResidualConv2D`, takes steps of Adam. Nothing decays: a kernel that shrinks is pulled back, and shorter
    centers are no simpler ones. In the same seconds of training it gives more certified accuracy than Adam, see
    `benchmarks/orthogonal_dense.py`.

    Args:
        learning_rate: Float or schedule; 1e-2 to 4e-2 is usual, the more the larger the batch.
        **kwargs: As for `keras.optimizers.Muon`.

    Returns:
        A `keras.optimizers.Muon`.

    Example:

    >>> model = ClustrClassifier(lipschitz_mlp((8, 8, 1)), num_classes=10)
    >>> model.compile(orthogonal_optimizer(2e-2), CertifiedMarginLoss(temperature=4.0, margin=0.8))

    Reference:
        Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024; steps of Adam's length after
        Liu et al., Muon is scalable for LLM training, 2025.
    """
    settings = {"ns_steps": 3, "momentum": 0.9, "weight_decay": None, "adam_weight_decay": None}
    return keras.optimizers.Muon(learning_rate, **(settings | kwargs))
