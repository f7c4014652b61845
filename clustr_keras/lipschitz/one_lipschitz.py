"""Bounds of the layers that are 1-Lipschitz by construction, and of what they condense to."""

import math

from clustr_keras.lipschitz.circular_conv import CircularConv2D
from clustr_keras.lipschitz.convolutions import plain_convolution_bound
from clustr_keras.lipschitz.dominance import dominance_norm_bound
from clustr_keras.lipschitz.group_sort import GroupSort
from clustr_keras.lipschitz.householder import HouseholderActivation, PairReflection
from clustr_keras.lipschitz.l2_norm_pooling import L2NormPooling
from clustr_keras.lipschitz.orthogonal_conv import OrthogonalConv2D
from clustr_keras.lipschitz.registry import LayerBound, Rounding, register, used_weight
from clustr_keras.lipschitz.residual import CondensedResidual, LipschitzResidual
from clustr_keras.lipschitz.residual_conv import CondensedResidualConv2D, LipschitzResidualConv2D
from clustr_keras.lipschitz.signals import up
from clustr_keras.lipschitz.space_to_depth import DepthToSpace, SpaceToDepth
from clustr_keras.lipschitz.spectral import spectral_norm_bound

# Of the branch of a residual layer: so near to 1 the frequencies of its kernel need not be visited.
_NEARLY_ONE = 1.0 + 1e-5


@register(SpaceToDepth, one_lipschitz=True)
@register(DepthToSpace, one_lipschitz=True)
def _of_rearrangement(_):
    return LayerBound(1.0, "moves entries", Rounding())


@register(GroupSort, one_lipschitz=True)
def _of_group_sort(_):
    return LayerBound(1.0, "a permutation chosen by the input", Rounding())


@register(L2NormPooling, one_lipschitz=True)
def _of_l2_norm_pooling(_):
    """`| ||x|| - ||y|| | <= ||x - y||` in each window, and no entry is in two of them."""
    return LayerBound(1.0, "norms of disjoint windows")


@register(HouseholderActivation, one_lipschitz=True)
@register(PairReflection)
def _of_reflection(call):
    """The identity on one side of a line, `I - 2 v v^T` on the other, and continuous: see `HouseholderActivation`."""
    directions = used_weight(call.operation, "directions")
    squares = (directions**2).sum(axis=0)
    # The squares and their sum are off by 2 roundings, which the factor 2 doubles.
    norm = max(1.0, float(abs(1.0 - 2.0 * squares).max()) + 8.0 * 2.0**-53 * float(squares.max()))
    return LayerBound(up(norm) if norm > 1.0 else 1.0, "a reflection on one side, by the float32 direction in use")


@register(OrthogonalConv2D, one_lipschitz=True)
@register(CircularConv2D)
def _of_orthogonal_convolution(call):
    return LayerBound(*plain_convolution_bound(used_weight(call.operation, "kernel")))


@register(LipschitzResidual, one_lipschitz=True)
@register(CondensedResidual)
def _of_residual(call):
    return _of_residual_of_norm(spectral_norm_bound(used_weight(call.operation, "kernel")))


@register(LipschitzResidualConv2D, one_lipschitz=True)
@register(CondensedResidualConv2D)
def _of_convolutional_residual(call):
    kernel = used_weight(call.operation, "kernel")
    norm = dominance_norm_bound(kernel)
    if norm > _NEARLY_ONE:  # weights that no layer has scaled
        norm = min(norm, plain_convolution_bound(kernel)[0])
    return _of_residual_of_norm(norm)


def _of_residual_of_norm(norm):
    """`sqrt(1 + 4 s max(0, s - 1))` with `s = ||V||^2`: see `LipschitzResidual`."""
    s = up(norm**2)
    bound = 1.0 if s <= 1.0 else up(math.sqrt(1.0 + 4.0 * s * (s - 1.0) * (1.0 + 2.0**-48)))
    return LayerBound(bound, "sum and branch as one, by the norm of the float32 kernel in use")
