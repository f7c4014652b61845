"""Recipes that train a classifier."""

from clustr_keras.training.certified import CertifiedRecipe, train_certified

__all__ = ["CertifiedRecipe", "train_certified"]
