"""Upper bound of the norm of a convolution from the correlations of its kernel: sharp where it is orthogonal."""

import itertools

import numpy as np

from clustr_keras.lipschitz.spectral import UNIT_ROUNDOFF, gamma, scaled_to_one, spectral_norm_bound
from clustr_keras.types import ArrayLike, Floats, Tensor

# Within that of the smallest norm it could have, the frequencies could not improve a bound.
_SHARP = 1.0001


def correlation_norm_bound(kernel: Tensor | ArrayLike) -> float:
    """Upper bound of the l_2 operator norm of a convolution with stride 1, proved for the numbers given.

    The norm is the largest `||A(w)||_2` over all frequencies, with `A(w) = sum_a K_a exp(i a.w)`, and

        ||A(w)||^2 = ||A(w) A(w)^*|| = ||sum_m C_m exp(i m.w)|| <= sum_m ||C_m||,    C_m = sum_(a-b=m) K_a K_b^T.

    An orthogonal kernel has `C_0 = I` and no other correlation, so the bound is 1 up to what rounding made of the
    kernel. No frequency is visited. For other kernels it may exceed the norm by far.

    Args:
        kernel: Array `[height, width, inputs, outputs]`.

    Returns:
        Float, at least the norm of the convolution on the infinite plane, and so with zeros for padding.

    Raises:
        ValueError: If the kernel holds a NaN or an infinity.

    Example:

    >>> correlation_norm_bound(np.ones([1, 1, 1, 1]))
    1.0
    """
    kernel, scale = scaled_to_one(kernel, "kernel")
    if scale == 0.0:
        return 0.0
    # The smaller of A A^* and A^* A.
    taps = kernel if kernel.shape[2] <= kernel.shape[3] else np.swapaxes(kernel, 2, 3)
    correlations = correlations_of(taps)
    square = sum((2.0 if any(m) else 1.0) * spectral_norm_bound(c) for m, c in correlations.items())
    # What float64 makes of all products and sums is at most that of the Frobenius norms.
    size = float(np.sum(np.sqrt(np.sum(taps**2, axis=(2, 3)))))
    count = taps.shape[3] + taps.shape[0] * taps.shape[1]
    square = (square + 2.0 * gamma(count) * size**2) * (1.0 + gamma(len(correlations) + 4))
    return float(scale * np.sqrt(square) * (1.0 + 8.0 * UNIT_ROUNDOFF))


def correlations_of(taps: Floats) -> dict[tuple[int, int], Floats]:
    """Shift m to `C_m = sum_(a-b=m) K_a K_b^T`, for half of the shifts: `C_(-m)` is the transpose of `C_m`.

    Args:
        taps: float64 `[height, width, n, inner]`, the matrices K.

    Returns:
        Dict, from pairs of integers, (0, 0) and those after it, to `[n, n]`.
    """
    correlations: dict[tuple[int, int], Floats] = {}
    for a, b in itertools.product(np.ndindex(taps.shape[:2]), repeat=2):
        shift = (a[0] - b[0], a[1] - b[1])
        if shift >= (0, 0):
            correlations[shift] = correlations.get(shift, 0.0) + taps[a] @ taps[b].T
    return correlations


def is_sharp(bound: float, kernel: Floats) -> bool:
    """Whether a bound of a convolution is within 0.01 % of its norm, by what the entries of its kernel tell.

    The mean of `||A(w)||_F^2` over all frequencies is `||K||_F^2`, so some `||A(w)||_2` is at least
    `||K||_F / sqrt(n)`, with n the smaller number of channels. An orthogonal kernel has that norm at every frequency.

    Args:
        bound: Float, an upper bound of the norm.
        kernel: Array `[height, width, inputs, outputs]`.

    Returns:
        Boolean; `False` may also mean that this cannot be told.

    Example:

    >>> is_sharp(1.0, np.eye(3)[None, None])
    True
    """
    return bool(bound <= _SHARP * np.linalg.norm(kernel) / np.sqrt(min(kernel.shape[2:])))
