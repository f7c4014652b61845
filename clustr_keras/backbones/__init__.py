"""Networks that turn images into embeddings."""

from clustr_keras.backbones.mlp import lipschitz_mlp

__all__ = ["lipschitz_mlp"]
