"""Lipschitz bounds that are proved, and layers that are 1-Lipschitz by construction."""

# Imported for the bounds that they register.
from clustr_keras.lipschitz import (
    activations,
    convolutions,
    dense,
    merging,
    moving,
    one_lipschitz,
    pooling,
    reductions,
    scaling,
    upsampling,
)
from clustr_keras.lipschitz.bounds import LipschitzBound, bound, is_one_lipschitz_by_construction
from clustr_keras.lipschitz.condense import condense
from clustr_keras.lipschitz.fingerprint import fingerprint
from clustr_keras.lipschitz.graph import Call, UnknownBoundError
from clustr_keras.lipschitz.group_sort import GroupSort
from clustr_keras.lipschitz.householder import HouseholderActivation
from clustr_keras.lipschitz.l2_norm_pooling import L2NormPooling
from clustr_keras.lipschitz.layers import MaxMin, OrthogonalDense, Orthonormal
from clustr_keras.lipschitz.optimizer import orthogonal_optimizer
from clustr_keras.lipschitz.orthogonal_conv import OrthogonalConv2D
from clustr_keras.lipschitz.registry import LayerBound, Rounding, register
from clustr_keras.lipschitz.residual import LipschitzResidual
from clustr_keras.lipschitz.residual_conv import LipschitzResidualConv2D
from clustr_keras.lipschitz.space_to_depth import DepthToSpace, SpaceToDepth

__all__ = [
    "Call",
    "DepthToSpace",
    "GroupSort",
    "HouseholderActivation",
    "L2NormPooling",
    "LayerBound",
    "LipschitzBound",
    "LipschitzResidual",
    "LipschitzResidualConv2D",
    "MaxMin",
    "OrthogonalConv2D",
    "OrthogonalDense",
    "Orthonormal",
    "Rounding",
    "SpaceToDepth",
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
    "one_lipschitz",
    "orthogonal_optimizer",
    "pooling",
    "reductions",
    "register",
    "scaling",
    "upsampling",
]
