"""Radii within which the nearest-center class cannot change, as pure functions of arrays.

For two centers `a`, `b` the signed distance of `z` to their bisecting hyperplane is

    h_ab(z) = (||z - mu_b||^2 - ||z - mu_a||^2) / (2 ||mu_a - mu_b||) = n_ab . (z - m_ab)

with the unit normal `n_ab` from `mu_b` to `mu_a` and the midpoint `m_ab`. It is 1-Lipschitz in `z`; for coincident
centers `h := 0`. The right-hand form is the one computed, since it does not cancel.
"""

from clustr_keras.certificates.distances import nearest_cluster, squared_distances
from clustr_keras.certificates.hyperplanes import signed_distances
from clustr_keras.certificates.logits import distance_logits
from clustr_keras.certificates.margins import exact_margin, nearest_margin, union_margin
from clustr_keras.certificates.radii import exact_radius, nearest_radius, soft_radius, union_radius
from clustr_keras.certificates.soft import soft_scores

__all__ = [
    "distance_logits",
    "exact_margin",
    "exact_radius",
    "nearest_cluster",
    "nearest_margin",
    "nearest_radius",
    "signed_distances",
    "soft_radius",
    "soft_scores",
    "squared_distances",
    "union_margin",
    "union_radius",
]
