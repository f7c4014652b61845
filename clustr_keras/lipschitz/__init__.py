"""Lipschitz bounds that are proved, and layers that are 1-Lipschitz by construction."""

# Imported for the bounds that they register.
from clustr_keras.lipschitz import (
    activations,
    convolutions,
    dense,
    merging,
    moving,
    pooling,
    reductions,
    scaling,
    upsampling,
)
from clustr_keras.lipschitz.bounds import LipschitzBound, bound, is_one_lipschitz_by_construction
from clustr_keras.lipschitz.condense import condense
from clustr_keras.lipschitz.fingerprint import fingerprint
from clustr_keras.lipschitz.graph import Call, UnknownBoundError
from clustr_keras.lipschitz.layers import MaxMin, OrthogonalDense, Orthonormal
from clustr_keras.lipschitz.registry import LayerBound, Rounding, register

__all__ = [
    "Call",
    "LayerBound",
    "LipschitzBound",
    "MaxMin",
    "OrthogonalDense",
    "Orthonormal",
    "Rounding",
    "UnknownBoundError",
    "activations",
    "bound",
    "condense",
    "convolutions",
    "dense",
    "fingerprint",
    "is_one_lipschitz_by_construction",
    "merging",
    "moving",
    "pooling",
    "reductions",
    "register",
    "scaling",
    "upsampling",
]
