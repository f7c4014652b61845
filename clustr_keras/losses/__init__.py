"""Losses on logits, on embeddings and on squared distances, and the terms that make two answers agree."""

from clustr_keras.losses.certified_margin import CertifiedMarginLoss
from clustr_keras.losses.consistency import cross_entropy_between, embedding_mse, kl_divergence
from clustr_keras.losses.magnet import CenterMagnetLoss, MagnetLoss, center_magnet_losses, magnet_losses

__all__ = [
    "CenterMagnetLoss",
    "CertifiedMarginLoss",
    "MagnetLoss",
    "center_magnet_losses",
    "cross_entropy_between",
    "embedding_mse",
    "kl_divergence",
    "magnet_losses",
]
