"""Networks that turn images into embeddings."""

from clustr_keras.backbones.convnet import convnet
from clustr_keras.backbones.lipschitz_convnet import lipschitz_convnet
from clustr_keras.backbones.lipschitz_resnet import lipschitz_resnet
from clustr_keras.backbones.mirror_averaged import mirror_averaged
from clustr_keras.backbones.mlp import lipschitz_mlp
from clustr_keras.backbones.normalization import CIFAR10_MEAN, CIFAR10_STD
from clustr_keras.backbones.resnet import resnet18

__all__ = [
    "CIFAR10_MEAN",
    "CIFAR10_STD",
    "convnet",
    "lipschitz_convnet",
    "lipschitz_mlp",
    "lipschitz_resnet",
    "mirror_averaged",
    "resnet18",
]
