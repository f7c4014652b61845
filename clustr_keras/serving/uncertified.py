"""The deployed form of a classifier whose backbone has no proved bound."""

from typing import Any

import keras
from keras import ops

from clustr_keras.heads import ClusterHead
from clustr_keras.types import Tensor


class Uncertified(keras.Model):
    """Classifies images and proves nothing.

    Args:
        backbone: `keras.Model` from images to embeddings.
        head: `ClusterHead`.

    Input shape:
        Images `[B, H, W, C]`.

    Output shape:
        A dict: `class_ids` int `[B]`, `probabilities` `[B, C]`, `embeddings` `[B, D]`.
    """

    def __init__(self, backbone: keras.Model, head: ClusterHead, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.backbone = backbone
        self.head = head
        self.built = True

    def call(self, images: Tensor) -> dict[str, Tensor]:
        """Classifies."""
        embeddings = ops.cast(self.backbone(images, training=False), "float32")
        logits = self.head(embeddings)
        return {
            "class_ids": ops.argmax(logits, axis=-1),
            "probabilities": self.head.probabilities(logits),
            "embeddings": embeddings,
        }
