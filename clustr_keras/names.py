"""The names that one may choose from, where nothing heavy is imported: for help, completion and annotations."""

from typing import Literal, TypeAlias

CertifiedMethod: TypeAlias = Literal["nearest", "union", "exact"]
"""How radii are computed that are certified in float32, see `clustr_keras.certificates`."""

Method: TypeAlias = Literal[CertifiedMethod, "soft"]
"""How radii are computed."""

PaperRecipe: TypeAlias = Literal["clustr", "clustr-qtrades", "clustr-qtrades-paper", "standard", "trades"]
"""The paper's training and its baselines, see `clustr_keras.training.paper_recipe`."""

RecipeName: TypeAlias = Literal["certified", PaperRecipe]
"""All recipes; the first is `clustr_keras.training.CertifiedRecipe`."""

AttackName: TypeAlias = Literal[
    "pgd-20", "pgd-margin", "pgd-dlr", "pgd-targeted", "pgd-100", "carlini-wagner", "square", "autoattack"
]
"""Attacks of an evaluation, in their order, see `clustr_keras.evaluation.attack_suite`."""

Scores: TypeAlias = Literal["distance", "log", "paper"]
"""Scores of a `ClustrClassifier` that attacks go through, see `clustr_keras.evaluation.as_target`."""

TunerName: TypeAlias = Literal["random", "bayesian", "hyperband"]
"""Tuners of a search, see `clustr_keras.tuning.make_tuner`."""

ObjectiveName: TypeAlias = Literal["certified", "clean", "robust", "clean+certified", "clean+robust"]
"""What a search maximizes, see `clustr_keras.tuning.make_objective`."""
