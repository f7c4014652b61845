"""What every backend has to compute alike."""

import keras
import numpy as np
from keras import ops

from clustr_keras import CertifiedMarginLoss, ClustrClassifier, backbones
from clustr_keras.backbones.resnet import _basic_block
from clustr_keras.backend import input_gradient
from clustr_keras.consistency import QTRADES
from clustr_keras.data import load_digits
from clustr_keras.lipschitz import orthogonal_optimizer
from support import parts
from support.gradients import compiled_value, value_and_gradients
from support.parts import assign_numpy_weights

STEPS, BATCH = 12, 32
CERTIFIED = "mlp, SGD"


def small_resnet(shape):
    """A residual block with batch normalization."""
    images = keras.Input(shape)
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(_basic_block(images, 8, 2, "block")))


def models():
    """Name, and what makes a classifier and what it is compiled with."""
    certified = {"loss": CertifiedMarginLoss(temperature=4.0, margin=0.8)}
    mlp = {"backbone": backbones.lipschitz_mlp, "sizes": {"widths": (32, 16)}, "clusters": 2}
    convnet = {"backbone": backbones.lipschitz_convnet, "sizes": {"channels": (8,), "dense": (16,)}, "clusters": 1}
    resnet = {"backbone": small_resnet, "sizes": {}, "clusters": 2}
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return {
        "mlp, SGD": (mlp, {"optimizer": keras.optimizers.SGD(0.05, momentum=0.9), **certified}),
        "convnet, Adam": (convnet, {"optimizer": keras.optimizers.Adam(5e-3), **certified}),
        "mlp, Muon": (mlp, {"optimizer": orthogonal_optimizer(2e-2), **certified}),
        "resnet, QTRADES": (
            resnet,
            {"optimizer": keras.optimizers.SGD(0.02), "loss": cross_entropy, "consistency": QTRADES(1.0, eps=0.1)},
        ),
    }


def made(backbone, sizes, clusters):
    """A classifier with weights from NumPy: each backend draws other ones."""
    model = ClustrClassifier(backbone((8, 8, 1), **sizes), 10, clusters)
    assign_numpy_weights(model)
    return model


def of_images(model, term, images):
    """The gradient that an attack on images climbs along."""

    def climbed(images):
        clean = ops.stop_gradient(term.features(model.head, model.backbone(images)))

        def divergence(x):
            embeddings = model.backbone(x, training=True)
            return term.inner(clean, term.features(model.head, embeddings)), embeddings

        return input_gradient(divergence, ops.clip(images + 0.05, 0.0, 1.0), model.variables)[0]

    return compiled_value(climbed, images)


def run(folder):
    """Writes the models, and files of all numbers."""
    np.savez(folder / "parts.npz", **parts.numbers())
    (images, labels), (test_images, _) = load_digits()
    batch, y = ops.convert_to_tensor(images[:BATCH]), ops.convert_to_tensor(labels[:BATCH])
    numbers = {}
    for name, (shape, settings) in models().items():
        model = made(**shape)
        model.compile(**settings, jit_compile=keras.backend.backend() == "jax")
        numbers[f"{name}: logits"] = model.predict(images[:BATCH], verbose=0)
        trainable = model.trainable_variables
        weights = model.get_weights()
        _, gradients = value_and_gradients(
            lambda: model.compute_loss(batch, y, model(batch, training=True), training=True),  # noqa: B023
            *trainable,
        )
        model.set_weights(weights)
        numbers[f"{name}: gradient"] = np.concatenate([gradient.ravel() for gradient in gradients])
        term = settings.get("consistency")
        if term is not None:
            numbers[f"{name}: input gradient"] = of_images(model, term, batch)
            model.set_weights(weights)
        losses = []
        for step in range(STEPS):
            rows = slice(step % 3 * BATCH, (step % 3 + 1) * BATCH)
            losses.append(model.train_on_batch(images[rows], labels[rows], return_dict=True)["loss"])
        numbers[f"{name}: curve"] = np.array(losses)
        if name == CERTIFIED:
            model.save(folder / "model.keras")
            certificate = model.certify(test_images[:100])
            numbers[f"{name}: bound"] = np.array(certificate.lipschitz_bound)
            for field in ("class_ids", "radius", "certified_radius"):
                numbers[f"{name}: {field}"] = getattr(certificate, field)
    np.savez(folder / "numbers.npz", **numbers)
