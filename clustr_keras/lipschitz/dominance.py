"""Upper bound of the norm of a convolution from its filters' inner products: sharp where these are scaled by it."""

import numpy as np

from clustr_keras.lipschitz.correlations import correlations_of
from clustr_keras.lipschitz.spectral import UNIT_ROUNDOFF, gamma, scaled_to_one
from clustr_keras.types import ArrayLike, Floats, Tensor

# Towards the best weights; a bound it is at each of them.
_ITERATIONS = 200


def dominance_norm_bound(kernel: Tensor | ArrayLike) -> float:
    """Upper bound of the l_2 operator norm of a convolution with stride 1, proved for the numbers given.

    With `A(w) = sum_a K_a exp(i a.w)`, each entry of `A(w)^* A(w) = sum_m C_m exp(i m.w)`, where
    `C_m = sum_(a-b=m) K_a^T K_b`, is at most that of `M = sum_m |C_m|`, and so, for any weights q > 0,

        ||A(w)||^2 <= spectral radius of M <= max_u (M q)_u / q_u    (Collatz, Wielandt).

    `LipschitzResidualConv2D` scales its filters to a spectral radius of 1. So the bound is 1 there, up to rounding, for
    any number of channels, and no frequency is visited. For other kernels it may exceed the norm by far.

    Args:
        kernel: Array `[height, width, inputs, outputs]`.

    Returns:
        Float, at least the norm of the convolution on the infinite plane, on a torus, and with zeros for padding.

    Raises:
        ValueError: If the kernel holds a NaN or an infinity.

    Example:

    >>> round(dominance_norm_bound(np.ones([1, 1, 1, 1])), 6)
    1.0

    Reference:
        Araujo et al., A Unified Algebraic Perspective on Lipschitz Neural Networks, ICLR 2023, Theorem 3, for the
        weights; Horn and Johnson, Matrix Analysis, 8.1, for both inequalities.
    """
    kernel, scale = scaled_to_one(kernel, "kernel")
    if scale == 0.0:
        return 0.0
    sizes = _sizes(kernel)
    weights = np.ones(len(sizes))
    square = np.inf
    for _ in range(_ITERATIONS):
        moved = sizes @ weights
        square = min(square, float((moved / weights).max()))
        # Of a filter that is nearly 0 or has to do with few others the weight may not vanish.
        weights = np.maximum(moved / moved.max(), 2.0**-40)
    # Sums of numbers that are not negative, and a quotient.
    square *= 1.0 + gamma(len(sizes) + 4)
    return float(scale * np.sqrt(square) * (1.0 + 8.0 * UNIT_ROUNDOFF))


def _sizes(kernel: Floats) -> Floats:
    """`M`, with what its own rounding may hide added."""
    correlations = correlations_of(np.swapaxes(kernel, 2, 3))
    sizes = sum((np.abs(c) + np.abs(c.T) if any(m) else np.abs(c) for m, c in correlations.items()), np.zeros(()))
    # A sum of products is off by at most gamma times that of their sizes, which is S^T S for all shifts together.
    total = np.abs(kernel).sum(axis=(0, 1))
    operations = kernel.shape[2] + kernel.shape[0] * kernel.shape[1] + 2 * len(correlations) + 8
    return sizes + gamma(operations) * (total.T @ total) * (1.0 + 1e-6)
