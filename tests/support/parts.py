"""Each loss, metric and published backbone by itself, at a small size: what every backend has to compute alike."""

import numpy as np
from keras import ops

from clustr_keras import CertifiedAccuracy, CertifiedMarginLoss, CertifiedRadius, backbones, losses
from support.gradients import compiled_value, value_and_gradients

CLASSES, CLUSTERS, DIM, ROWS = 3, 2, 4, 12
BACKBONES = {
    "resnet18": ((8, 8, 3), {"width": 2, "mean": (0.5,) * 3, "std": (0.25,) * 3}),
    "convnet": ((8, 8, 1), {"width": 2, "dim": 4}),
    "lipschitz_mlp": ((4, 4, 1), {"widths": (8, 6)}),
    "lipschitz_convnet": ((4, 4, 1), {"channels": (4,), "dense": (6, 4)}),
    "lipschitz_resnet": ((4, 4, 1), {"width": 4, "depths": (1,), "dense": (6, 4)}),
}


def losses_at():
    """From the name of a loss to the loss as a function of one array, and where to take it."""
    rng = np.random.default_rng(1)
    y = np.arange(ROWS) % CLASSES
    clusters = np.where(np.arange(ROWS) < ROWS - 1, CLUSTERS * y + np.arange(ROWS) // CLASSES % CLUSTERS, -1)
    pairs = np.stack([y, clusters], axis=-1)  # the last row is padding
    scores = rng.normal(size=(ROWS, CLASSES)).astype("float32")
    embeddings = rng.normal(size=(ROWS, DIM)).astype("float32")
    target, twin = ops.softmax(scores[::-1].copy()), embeddings[::-1].copy()
    squares = rng.uniform(1.0, 4.0, (ROWS, CLASSES, CLUSTERS)).astype("float32")
    return {
        "CertifiedMarginLoss": (lambda x: CertifiedMarginLoss(temperature=4.0, margin=0.8)(y, x), scores),
        "MagnetLoss": (lambda x: losses.MagnetLoss(alpha=1.0)(pairs, x), embeddings),
        "CenterMagnetLoss": (lambda x: losses.CenterMagnetLoss(alpha=1.0)(y, x), squares),
        "cross_entropy_between": (lambda x: losses.cross_entropy_between(target, x), scores),
        "kl_divergence": (lambda x: losses.kl_divergence(target, x), scores),
        "embedding_mse": (lambda x: losses.embedding_mse(twin, x), embeddings),
    }


def metrics():
    """The metrics, after an update with weights and one without."""
    rng = np.random.default_rng(2)
    y, logits = rng.integers(0, CLASSES, (2, ROWS)), rng.normal(size=(2, ROWS, CLASSES)).astype("float32")
    for metric in (CertifiedRadius(), CertifiedAccuracy(0.3)):
        metric.update_state(y[0], logits[0])
        metric.update_state(y[1], logits[1], rng.uniform(size=ROWS))
        yield type(metric).__name__, metric.result()


def assign_numpy_weights(model, seed=0):
    """Gives a model kernels from NumPy: each backend draws other ones."""
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        if len(variable.shape) > 1:
            fan_in = np.prod(variable.shape[:-1])
            variable.assign(rng.normal(size=variable.shape) / np.sqrt(fan_in))
        if variable.constraint is not None:
            variable.assign(variable.constraint(variable.value))


def numbers():
    """From the name of a part and what is computed of it to the numbers."""
    found = {}
    for name, (loss, at) in losses_at().items():
        value, (gradient,) = value_and_gradients(loss, at)
        found[f"{name}: value"], found[f"{name}: gradient"] = value, gradient
    for name, result in metrics():
        found[f"{name}: value"] = np.asarray(result)
    for name, (shape, sizes) in BACKBONES.items():
        model = getattr(backbones, name)(shape, **sizes)
        assign_numpy_weights(model)
        rng = np.random.default_rng(3)
        images = rng.uniform(size=(8, *shape)).astype("float32")
        along = rng.normal(size=(8, model.output_shape[-1])).astype("float32")
        found[f"{name}: value"] = compiled_value(model, images)
        _, gradients = value_and_gradients(
            lambda: ops.sum(along * model(images, training=True)),  # noqa: B023
            *model.trainable_variables,
        )
        found[f"{name}: gradient"] = np.concatenate([gradient.ravel() for gradient in gradients])
    return found
