"""What `ClustrClassifier.fit` looks at before it trains."""

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from clustr_keras.backend import strategy_scope
from clustr_keras.data.checks import check_images, check_labels
from clustr_keras.shares import check_shares, is_array
from clustr_keras.types import ArrayLike, Tensor

if TYPE_CHECKING:
    from clustr_keras.classifier import ClustrClassifier


def check_fit_data(
    model: "ClustrClassifier",
    x: Any,
    y: Tensor | ArrayLike | None,
    batch_size: int | None = None,
    validation_split: float = 0.0,
) -> None:
    """Checks the training data of a classifier, and that devices can share its batches.

    Args:
        model: `ClustrClassifier`.
        x, y, batch_size, validation_split: As for `fit`.

    Raises:
        ValueError: As `fit`.
    """
    rows = check_examples(model, x, y)
    with strategy_scope(model):
        check_shares(x, rows, batch_size, validation_split)


def check_examples(model: "ClustrClassifier", x: Any, y: Tensor | ArrayLike | None) -> int:
    """Checks what there is to see before training; returns the number of examples looked at."""
    if hasattr(x, "example_batch"):
        # Batches of clusters, which have checked their labels; there are none to draw before training begins.
        x, y = x.example_batch()[0], np.zeros(x.batch_size, "int64")
    if is_array(x):
        x, whole = np.asarray(x), True
        if y is None:
            raise ValueError("labels are missing: pass y, class ids [B].")
    else:
        x, y, whole = *_first_batch(x), False
    check_images(x, model.backbone.input_shape[1:])
    check_labels(y, model.num_classes, len(x))
    if keras.distribution.distribution() is not None:
        return len(x)  # what one process has is a share of a batch, and no batch by itself
    # Not with predict, which would share these few among devices.
    embeddings = keras.ops.convert_to_numpy(model.backbone(x[:32], training=False))
    if not np.isfinite(embeddings).all():
        share = np.mean(~np.isfinite(embeddings).all(axis=-1))
        raise ValueError(
            f"{share:.0%} of the embeddings of the first images are not finite before training; expected numbers. "
            f"Check the weights of the backbone {model.backbone.name!r}{'' if whole else ' and the data set'}."
        )
    return len(x)


def _first_batch(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of the first batch of a tf.data.Dataset, PyDataset, generator-free data set or data loader."""
    if dataset is None:
        raise ValueError("there is no training data: pass x and y, or a data set.")
    if isinstance(dataset, keras.utils.PyDataset):
        batch = dataset[0] if dataset.num_batches != 0 else None
    elif hasattr(dataset, "__next__"):
        raise ValueError("a generator cannot be checked before training; wrap it in a keras.utils.PyDataset.")
    else:
        batch = next(iter(dataset), None)
    if batch is None:
        raise ValueError("the data set is empty; expected at least one batch.")
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise ValueError(f"a data set must give (images, labels); got {type(batch).__name__}.")
    return np.asarray(batch[0]), np.asarray(batch[1])
