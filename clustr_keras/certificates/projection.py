"""Distance to an intersection of half-spaces, by duality."""

import itertools

from keras import ops

from clustr_keras.certificates.floats import unit_roundoff
from clustr_keras.types import Tensor

# All active sets are tried up to this K; beyond it coordinate ascent makes so many sweeps.
_ENUMERATED_CLUSTERS = 4
_SWEEPS = 50


def half_space_distance(weights: Tensor, gram: Tensor, h: Tensor, dim: int) -> Tensor:
    """Distance of `z` to the polyhedron `{w : h_a(w) <= 0 for all a}`, by the best of some dual weights.

    `max_l (l . h) / ||sum_a l_a n_a||`, minus its own rounding: a bound from below for whatever weights `l >= 0`, and
    the distance itself at the best of all.

    Args:
        weights: Floats `[B, T, S, K]`, not negative: S candidates for each of T polyhedra with K faces.
        gram: Floats `[B, T, K, K]`, `n_a . n_a'`.
        h: Floats `[B, T, K]`, signed distances to the faces.
        dim: Integer D.

    Returns:
        Floats `[B, T]`.
    """
    gamma = 2.0 * (dim + 2 * h.shape[-1] + 16) * unit_roundoff(h.dtype)
    # Relative to the sum of the weights, since unit normals cancel: and never 0, where all weights are.
    rounding = gamma * ops.square(ops.sum(weights, axis=-1)) + 1e-30
    square = ops.maximum(ops.sum(ops.matmul(weights, gram) * weights, axis=-1), 0.0) + rounding
    numerator = ops.sum(weights * (h - gamma * ops.abs(h))[..., None, :], axis=-1)
    return ops.max(numerator / ops.sqrt(square), axis=-1) * (1.0 - gamma)


def dual_weights(gram: Tensor, h: Tensor) -> Tensor:
    """Weights `l >= 0`, `[B, T, S, K]`, of which one makes `half_space_distance` all or nearly all of the distance."""
    if h.shape[-1] <= _ENUMERATED_CLUSTERS:
        return _active_set_weights(gram, h)
    return _ascended_weights(gram, h)[..., None, :]


def active_sets(clusters: int) -> list[tuple[int, ...]]:
    """The sets of at least two of K faces."""
    return [active for size in range(2, clusters + 1) for active in itertools.combinations(range(clusters), size)]


def _active_set_weights(gram, h):
    """Solutions of `G_S l_S = h_S` for all sets S of at least two clusters, negative ones cut off."""
    clusters = h.shape[-1]
    columns = [h[..., k] for k in range(clusters)]
    candidates = []
    for active in active_sets(clusters):
        solution = _solve([[gram[..., i, j] for j in active] for i in active], [columns[i] for i in active])
        spread = [solution[active.index(k)] if k in active else ops.zeros_like(h[..., 0]) for k in range(clusters)]
        candidates.append(ops.stack(spread, axis=-1))
    return ops.maximum(ops.stack(candidates, axis=2), 0.0)


def _solve(matrix, right):
    """Elimination for a small positive definite system of tensors; near-singular ones give something finite."""
    size = len(right)
    matrix, right = [list(row) for row in matrix], list(right)
    for i in range(size):
        matrix[i][i] = ops.maximum(matrix[i][i], 1e-9 if unit_roundoff(right[0].dtype) < 1e-9 else 1e-5)
        for j in range(i + 1, size):
            factor = matrix[j][i] / matrix[i][i]
            right[j] = right[j] - factor * right[i]
            for k in range(i + 1, size):
                matrix[j][k] = matrix[j][k] - factor * matrix[i][k]
    for i in reversed(range(size)):
        for k in range(i + 1, size):
            right[i] = right[i] - matrix[i][k] * right[k]
        right[i] = right[i] / matrix[i][i]
    return right


def _ascended_weights(gram, h):
    """Coordinate ascent on the dual `l . h - l^T G l / 2`, `l >= 0`."""
    clusters = h.shape[-1]

    def sweep(_, weights):
        for k in range(clusters):
            others = ops.sum(gram[..., k, :] * weights, axis=-1) - gram[..., k, k] * weights[..., k]
            of_k = ops.maximum(h[..., k] - others, 0.0)[..., None]
            weights = ops.where(ops.arange(clusters) == k, of_k, weights)
        return weights

    return ops.fori_loop(0, _SWEEPS, sweep, ops.zeros_like(h))
