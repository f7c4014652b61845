"""Attacks that search for inputs with another answer."""

from clustr_keras.attacks.attack import Attack, AttackResult
from clustr_keras.attacks.bisector import BisectorAttack
from clustr_keras.attacks.boundary_walk import ClearFlips, slide_flips
from clustr_keras.attacks.carlini_wagner import CarliniWagner
from clustr_keras.attacks.line_search import shrink_flips
from clustr_keras.attacks.losses import cross_entropy, dlr, margin
from clustr_keras.attacks.pgd import ProjectedGradientDescent, TargetedProjectedGradientDescent
from clustr_keras.attacks.square import SquareAttack
from clustr_keras.attacks.subset import OnSubset

__all__ = [
    "Attack",
    "AttackResult",
    "BisectorAttack",
    "CarliniWagner",
    "ClearFlips",
    "OnSubset",
    "ProjectedGradientDescent",
    "SquareAttack",
    "TargetedProjectedGradientDescent",
    "cross_entropy",
    "dlr",
    "margin",
    "shrink_flips",
    "slide_flips",
]
