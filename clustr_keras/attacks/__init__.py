"""Attacks that search for inputs with another answer."""

from clustr_keras.attacks.line_search import shrink_flips
from clustr_keras.attacks.losses import margin
from clustr_keras.attacks.pgd import AttackResult, ProjectedGradientDescent

__all__ = ["AttackResult", "ProjectedGradientDescent", "margin", "shrink_flips"]
