"""A small model that trains on magnet batches, without the classifier around it."""

import keras
import numpy as np
import pytest
from keras import ops


class StandIn(keras.Model):
    """What the batches and the refresh ask of a model: `backbone`, `head`, `example_losses`."""

    def __init__(self, backbone, num_classes, clusters_per_class, rows=None):
        from clustr_keras import ClusterHead

        super().__init__()
        self.backbone = backbone
        self.head = ClusterHead(num_classes, clusters_per_class, name="head")
        self.head.build(backbone.output_shape)
        self.head.centers.trainable = False
        if rows is not None:
            self.example_losses = self.add_weight(
                shape=(rows,), initializer="zeros", trainable=False, name="example_losses"
            )
        self.built = True

    def call(self, images, training=None):
        self.embeddings = self.backbone(images, training=training)
        return self.head(self.embeddings)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        from clustr_keras.losses import magnet_losses

        if len(y.shape) == 1:
            return ops.mean(ops.sparse_categorical_crossentropy(y, y_pred, from_logits=True))
        losses, _ = magnet_losses(self.embeddings, y[:, 0], y[:, 1], alpha=1.0)
        if hasattr(self, "example_losses"):
            # Exaggerated: which cluster comes next then depends on the losses almost alone.
            self.example_losses.assign(losses**8)
        return ops.sum(losses * sample_weight) / ops.sum(sample_weight)


@pytest.fixture
def stand_in():
    """Makes a compiled model: `stand_in(image_shape, num_classes, clusters_per_class, rows=None, **compile)`."""

    def make(image_shape, num_classes, clusters_per_class, rows=None, layers=None, **compile_arguments):
        keras.utils.set_random_seed(0)
        images = keras.Input(image_shape)
        layers = layers or [keras.layers.Flatten(), keras.layers.Dense(12, "relu"), keras.layers.Dense(6)]
        backbone = keras.Model(images, keras.Sequential(layers)(images))
        model = StandIn(backbone, num_classes, clusters_per_class, rows)
        model.compile(keras.optimizers.Adam(1e-2), **compile_arguments)
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)  # or the first step is traced twice
        return model

    return make


@pytest.fixture(scope="session")
def colors():
    """120 images uint8 `[4, 4, 1]` of 3 classes with overlapping brightness; pixel (0, 0) numbers the image."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 40)
    images = rng.integers(0, 100, (120, 4, 4, 1)) + 60 * labels[:, None, None, None]
    images[:, 0, 0, 0] = np.arange(120)
    return images.astype("uint8"), labels
