"""Guaranteed upper bounds of matrix norms, in NumPy float64 and inflated by their own rounding."""

import numpy as np

from clustr_keras.types import ArrayLike, Floats, Tensor

UNIT_ROUNDOFF = 2.0**-53
_SQUARINGS = 14


def spectral_norm_bound(matrix: Tensor | ArrayLike) -> float:
    """Upper bound of the spectral norm of a matrix, proved for the numbers given.

    Gram iteration: `||G||_2 <= ||G^(2^j)||_F^(1/2^j)` for the Gram matrix `G`, at every `j`. A multiple of the
    identity is split off first where that is tighter, `||G||_2 <= t + ||G - t I||_2`, so that a nearly orthogonal
    matrix gets a bound as good as its orthogonality. Each step adds a bound on its own float64 rounding.

    Args:
        matrix: Array `[m, n]`.

    Returns:
        Float, at least the largest singular value and typically within 0.1 % of it.

    Raises:
        ValueError: If the matrix is not of rank 2 or holds a NaN or an infinity.

    Example:

    >>> round(spectral_norm_bound([[3.0, 0.0], [0.0, 4.0]]), 2)
    4.0

    Reference:
        Delattre et al., Efficient Bound of Lipschitz Constant for Convolutional Layers by Gram Iteration, ICML 2023.
    """
    matrix = np.asarray(matrix, dtype="float64")
    if matrix.ndim != 2:
        raise ValueError(f"matrix must have rank 2; got shape {matrix.shape}.")
    matrix, scale = scaled_to_one(matrix, "matrix")
    if scale == 0.0:
        return 0.0
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    gram = matrix.T @ matrix
    error = gamma(matrix.shape[0]) * _frobenius(matrix) ** 2
    shift = float(np.trace(gram)) / len(gram)
    shifted = gram - shift * np.eye(len(gram))
    # One more rounding on the diagonal, at most half an ulp of its entries.
    shift_error = UNIT_ROUNDOFF * _frobenius(np.diag(shifted)[None])
    square = min(_gram_iteration(gram), shift + _gram_iteration(shifted) + shift_error) + error
    return float(scale * np.sqrt(square) * (1.0 + 8.0 * UNIT_ROUNDOFF))


def scaled_to_one(array: Tensor | ArrayLike, what: str) -> tuple[Floats, float]:
    """An array whose largest entry lies in (1/2, 1], and what it was divided by: 0 for zeros, which stay so.

    Args:
        array: Array of any shape.
        what: What an error calls it.

    Returns:
        A float64 array and a power of two: exact, and no square of the array can leave float64's range.

    Raises:
        ValueError: If the array holds a NaN or an infinity.
    """
    array = np.asarray(array, dtype="float64")
    if not np.isfinite(array).all():
        raise ValueError(f"the {what} holds a NaN or an infinity, so its norm has no bound.")
    largest = np.abs(array).max(initial=0.0)
    if largest == 0.0:
        return array, 0.0
    scale = float(2.0 ** np.ceil(np.log2(largest)))
    return array / scale, scale


def gamma(operations: int, unit_roundoff: float = UNIT_ROUNDOFF) -> float:
    """`n u / (1 - n u)`: relative error of a sum or product of `n` rounded operations, in any order.

    Reference:
        Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., lemma 3.1.
    """
    if operations * unit_roundoff >= 0.5:
        raise ValueError(f"{operations} operations are too many for a unit roundoff of {unit_roundoff}.")
    return operations * unit_roundoff / (1.0 - operations * unit_roundoff)


def float32_upward(value: float) -> float:
    """The smallest normal float32 number that is at least `value >= 0`, as a float.

    Never 0, which a radius would be divided by; no subnormal number, which would be flushed to 0.
    """
    with np.errstate(over="ignore"):
        rounded = np.float32(value)
    rounded = rounded if float(rounded) >= value else np.nextafter(rounded, np.float32(np.inf))
    return float(max(rounded, np.finfo("float32").tiny))


def _frobenius(matrix):
    return float(np.linalg.norm(matrix)) * (1.0 + gamma(matrix.size + 4))


def _gram_iteration(matrix):
    """`||M||_2 = ||M^T M||_2^(1/2) <= ...`, with `||fl(M^T M)||_2 + gamma_n ||M||_F^2` for each product."""
    norms: list[float] = []
    errors: list[float] = []
    bound = np.inf
    for _ in range(_SQUARINGS):
        norm = _frobenius(matrix)
        if norm == 0.0:
            return _unwind(0.0, norms, errors)
        previous, bound = bound, _unwind(norm, norms, errors)
        if bound > (1.0 - 1e-5) * previous:
            return min(bound, previous)
        matrix = matrix / norm
        # Rounding of the division and of the product, for a matrix of Frobenius norm at most 1.
        norms.append(norm)
        errors.append(2.0 * gamma(len(matrix) + 4))
        matrix = matrix.T @ matrix
    return bound


def _unwind(bound, norms, errors):
    for norm, error in zip(reversed(norms), reversed(errors), strict=True):
        bound = norm * np.sqrt(bound + error) * (1.0 + 8.0 * UNIT_ROUNDOFF)
    return float(bound)
