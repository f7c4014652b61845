"""Guaranteed upper bounds of the norm of a convolution: the supremum over all frequencies, not over a grid."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from clustr_keras.lipschitz.spectral import UNIT_ROUNDOFF, gamma, scaled_to_one, spectral_norm_bound
from clustr_keras.types import ArrayLike, Floats, Tensor

# Grid points per dimension and degree, finest first, with the work (frequencies times cubes) that each may take. In two
# dimensions they cost 0.24 %, 0.43 %, 0.97 %, 1.7 %, 3.9 %, 7.2 % and 17 % of the bound.
_DENSITIES = ((32, 2e9), (24, 3e9), (16, 6e9), (12, 5e10), (8, 5e10), (6, 5e10), (4, math.inf))
_ENTRIES_AT_ONCE = 2**19


def convolution_norm_bound(
    kernel: Tensor | ArrayLike,
    strides: Sequence[int] | None = None,
    dilation: Sequence[int] | None = None,
    groups: int = 1,
) -> float:
    """Upper bound of the l_2 operator norm of a convolution on the infinite lattice, proved for the numbers given.

    Zero padding restricts input and output to a finite part of the lattice (`valid`, `same`, `causal` alike), which
    never increases the norm; the transposed convolution with this kernel is the adjoint and has the same norm.

    **Strides.** With the input lattice cut into blocks of `strides` points, whose points become channels, a strided
    convolution is one with stride 1. Without strides, dilation only relabels frequencies and is dropped.

    **Frequencies.** The norm of a convolution with stride 1 is the largest `||A(w)||_2` over all frequencies `w`, where
    `A(w) = sum_a K_a exp(i a.w)`. For a fixed unit vector `v`, `p(w) = ||A(w)^* v||^2` is a trigonometric polynomial
    with `0 <= p <= M`, of a degree `d` in each dimension that is the kernel's extent less one. At a distance
    `t <= pi / d` from a maximum, `p - M/2` is at least `M/2 cos(d t)` (M. Riesz), so `p >= M cos^2(d t / 2)`.
    Every frequency is within `pi / N` of one of N grid points. Going to the grid one dimension at a time,

        sup_w ||A(w)||^2 <= max over the grid of ||A(w)||^2 / prod cos^2(pi d / 2N).

    **Each frequency.** `T I - G(w)` has a Cholesky factorization, with `G = A A^*` (or `A^* A`, the smaller one). If
    that runs to its end in float64, the matrix is positive semidefinite up to `gamma_(8n+20) trace`, so
    `||A(w)||^2 <= T` plus that, plus a bound on what the entries of `G` are off by. `T` is guessed from eigenvalues,
    and nothing is taken from them without that proof.

    Args:
        kernel: Array `[*sizes, inputs / groups, outputs]`.
        strides, dilation: Positive integers, one per dimension; 1 by default.
        groups: Number of groups that the channels fall into.

    Returns:
        Float, at least the norm of the convolution; for up to 64 channels in two dimensions within 0.3 % of it.

    Raises:
        ValueError: If the kernel holds a NaN or an infinity.

    Example:

    >>> round(convolution_norm_bound(np.ones([3, 3, 1, 1])), 1)
    9.0

    Reference:
        Sedghi, Gupta and Long, The Singular Values of Convolutional Layers, ICLR 2019 (the frequencies);
        Pfister and Bresler, Bounding Multivariate Trigonometric Polynomials, 2019 (grids);
        Rump, Verification of Positive Definiteness, BIT 2006 (the factorization).
    """
    kernel, scale = scaled_to_one(kernel, "kernel")
    if scale == 0.0:
        return 0.0
    dimensions = kernel.ndim - 2
    strides, dilation = (tuple(v) if v is not None else (1,) * dimensions for v in (strides, dilation))
    taps = _blocked_taps(kernel, strides, dilation, groups)
    degrees = np.max(list(taps), axis=0)
    if not degrees.any():
        return float(scale * max(spectral_norm_bound(matrix) for matrix in next(iter(taps.values()))))
    differences, correlations, error = _correlations(taps)
    counts = _grid(degrees, correlations.shape)
    # Many small matrices: more threads would only get into each other's way.
    with threadpool_limits(limits=1, user_api="blas"):
        square = _largest_square(differences, correlations, counts, error)
    between = math.prod(math.cos(math.pi * d / (2 * n)) ** 2 for d, n in zip(degrees, counts, strict=True))
    return float(scale * np.sqrt(square / between) * (1.0 + 64.0 * UNIT_ROUNDOFF))


def _blocked_taps(kernel, strides, dilation, groups):
    """The kernel of the convolution with stride 1 on the blocked input: place -> matrices `[groups, small, large]`."""
    sizes, (inputs, outputs) = kernel.shape[:-2], kernel.shape[-2:]
    if set(strides) == {1}:
        dilation = (1,) * len(sizes)
    by_group = np.moveaxis(kernel.reshape(*sizes, inputs, groups, outputs // groups), -2, -3)
    places: dict[tuple[int, ...], dict[tuple[int, ...], Floats]] = {}
    for index in np.ndindex(*sizes):
        offset = [i * d for i, d in zip(index, dilation, strict=True)]
        block = tuple(o // s for o, s in zip(offset, strides, strict=True))
        phase = tuple(o % s for o, s in zip(offset, strides, strict=True))
        places.setdefault(block, {})[phase] = by_group[index]
    phases = sorted({phase for by_phase in places.values() for phase in by_phase})
    nothing = np.zeros((groups, inputs, outputs // groups))
    taps = {
        block: np.concatenate([by_phase.get(phase, nothing) for phase in phases], axis=1)
        for block, by_phase in places.items()
    }
    is_wide = len(phases) * inputs <= outputs // groups
    return {block: tap if is_wide else np.swapaxes(tap, 1, 2) for block, tap in taps.items()}


def _correlations(taps):
    """`C_m = sum_(a-b=m) K_a K_b^T` for half of all `m`, `C_0` halved, and how far `G` made of them may be off.

    `G(w) = H + H^*` with `H = sum_m C_m exp(i m.w)`. The products are off by `gamma ||K_a|| ||K_b||` in Frobenius norm,
    the exponentials by less than 256 roundings, the sum over m by as many as it has terms.
    """
    sums: dict[tuple[int, ...], Floats] = {}
    for (a, left), (b, right) in itertools.product(taps.items(), repeat=2):
        difference = tuple(np.subtract(a, b).tolist())
        if difference >= (0,) * len(difference):
            product = left @ np.swapaxes(right, 1, 2)
            product = 0.5 * product if not any(difference) else product
            sums[difference] = sums[difference] + product if difference in sums else product
    inner = next(iter(taps.values())).shape[-1]
    norms = sum(np.sqrt(np.sum(tap**2, axis=(1, 2))) for tap in taps.values())
    roundings = gamma(inner + len(taps) + 2 * len(sums) + 512)
    error = 2.0 * roundings * float(np.max(norms)) ** 2 * (1.0 + 1e-6)
    return np.array(list(sums)), np.stack(list(sums.values())), error


def _grid(degrees, shape):
    _, groups, side, _ = shape
    for density, most_work in _DENSITIES:
        counts = [max(1, density * int(d)) for d in degrees]
        if math.prod(counts) / 2 * groups * (side**3 + shape[0] * side**2) <= most_work:
            return counts
    raise AssertionError("the coarsest grid is always allowed")


def _largest_square(differences, correlations, counts, error):
    """Upper bound of `||A(w)||^2` at all points of the grid."""
    terms, _, side, _ = correlations.shape
    transposed = np.swapaxes(correlations, 2, 3)
    real, imaginary = (part.reshape(terms, -1) for part in (correlations + transposed, correlations - transposed))
    # A real kernel takes the same values at w and -w.
    halved = next(i for i, n in enumerate(counts) if n > 1)
    ranges = [range(n // 2 + 1) if i == halved else range(n) for i, n in enumerate(counts)]
    points = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, len(counts))
    # In no particular order, so that the largest value so far is seldom exceeded.
    points = np.random.default_rng(0).permutation(points)
    at_once = max(1, _ENTRIES_AT_ONCE // real.shape[1])
    largest = 0.0
    for start in range(0, len(points), at_once):
        chunk = points[start : start + at_once]
        # Reduced as integers, so that the angle is off by a few roundings of 2 pi only.
        turns = (chunk[:, None, :] * differences[None] % counts / counts).sum(axis=-1)
        gram = np.empty((len(chunk), real.shape[1]), dtype="complex128")
        gram.real = np.cos(2.0 * np.pi * turns) @ real
        gram.imag = np.sin(2.0 * np.pi * turns) @ imaginary
        # Of each matrix the lower half counts; the upper one is the same up to rounding.
        gram = gram.reshape(-1, side, side)
        margin = 1e-9
        while not _is_at_most(gram, largest):
            largest = max(largest, float(np.linalg.eigvalsh(gram).max())) * (1.0 + margin)
            margin *= 10.0
    of_factorization = side * gamma(8 * side + 20) * (largest + error)
    return (largest + error + of_factorization) * (1.0 + 1e-12)


def _is_at_most(gram, value):
    if value <= 0.0:
        return False
    try:
        remainder = -gram
        np.einsum("nii->ni", remainder)[...] += value
        factor = np.linalg.cholesky(remainder)
    except np.linalg.LinAlgError:
        return False
    diagonal = np.diagonal(factor, axis1=1, axis2=2).real
    return bool(np.isfinite(diagonal).all() and (diagonal > 0.0).all())
