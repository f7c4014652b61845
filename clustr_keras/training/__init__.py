"""Recipes that train a classifier, and the batches, callbacks and checkpoints that they are made of."""

from clustr_keras.training.certified import CertifiedRecipe, certified_recipe, train_certified, with_mirror_averages
from clustr_keras.training.epoch_checkpoint import EpochCheckpoint
from clustr_keras.training.kmeans_refresh import KMeansRefresh
from clustr_keras.training.magnet_batches import MagnetBatches
from clustr_keras.training.recipes import Recipe, paper_recipe, train

__all__ = [
    "CertifiedRecipe",
    "EpochCheckpoint",
    "KMeansRefresh",
    "MagnetBatches",
    "Recipe",
    "certified_recipe",
    "paper_recipe",
    "train",
    "train_certified",
    "with_mirror_averages",
]
