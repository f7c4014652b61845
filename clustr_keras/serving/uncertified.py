"""The deployed form of a classifier whose backbone has no proved bound."""

import keras
from keras import ops


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

    def __init__(self, backbone, head, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.backbone = backbone
        self.head = head
        self.built = True

    def call(self, images):
        """Classifies."""
        embeddings = ops.cast(self.backbone(images, training=False), "float32")
        logits = self.head(embeddings)
        return {
            "class_ids": ops.argmax(logits, axis=-1),
            "probabilities": self.head.probabilities(logits),
            "embeddings": embeddings,
        }
