"""Lipschitz bounds that are proved, and layers that are 1-Lipschitz by construction."""

from clustr_keras.lipschitz.bounds import (
    LayerBound,
    LipschitzBound,
    Rounding,
    bound,
    is_one_lipschitz_by_construction,
    register,
)
from clustr_keras.lipschitz.condense import condense
from clustr_keras.lipschitz.fingerprint import fingerprint
from clustr_keras.lipschitz.graph import Call, UnknownBoundError
from clustr_keras.lipschitz.layers import MaxMin, OrthogonalDense, Orthonormal

__all__ = [
    "Call",
    "LayerBound",
    "LipschitzBound",
    "MaxMin",
    "OrthogonalDense",
    "Orthonormal",
    "Rounding",
    "UnknownBoundError",
    "bound",
    "condense",
    "fingerprint",
    "is_one_lipschitz_by_construction",
    "register",
]
