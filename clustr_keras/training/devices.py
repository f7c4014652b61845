"""The devices of this machine that a training runs on."""

import contextlib
import functools
from typing import TYPE_CHECKING, Any

import keras

from clustr_keras.classifier import ClustrClassifier

if TYPE_CHECKING:
    import tensorflow as tf


def strategy_for(devices: int | str | None = None) -> "tf.distribute.MirroredStrategy | None":
    """The distribution strategy of a training on many devices: GPUs where there are any, CPU devices otherwise.

    Args:
        devices: `"all"`, the number of devices as an integer or its text, or `None` for one.

    Returns:
        A `tf.distribute.MirroredStrategy`; `None` for one device, which needs none.

    Raises:
        ValueError: If `devices` is something else, or there are fewer.
        NotImplementedError: On a backend other than TensorFlow, for anything but one device.

    Example:

    >>> strategy_for("all").num_replicas_in_sync
    8
    """
    wanted = 1 if devices is None else devices
    if wanted != "all" and (not str(wanted).isdecimal() or int(wanted) < 1):
        raise ValueError(f"devices must be all, or a number of at least 1; got {devices!r}.")
    if str(wanted) == "1":
        return None
    if keras.backend.backend() != "tensorflow":
        raise NotImplementedError(
            f"training on many devices needs the TensorFlow backend; got {keras.backend.backend()}. "
            "Set KERAS_BACKEND=tensorflow, or train on one device."
        )
    import tensorflow as tf

    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    names = [device.name for device in tf.config.list_logical_devices(kind)]
    count = len(names) if wanted == "all" else int(wanted)
    if count > len(names):
        raise ValueError(f"devices={count} asks for more than there are: {len(names)} of kind {kind}. Pass all.")
    return _mirrored(tuple(names[:count])) if count > 1 else None


@functools.cache
def _mirrored(names):
    """One strategy for the same devices: those of several would take each other's collective operations for theirs."""
    import tensorflow as tf

    # CPU devices share their memory, and can do without collective operations, the default.
    is_cpu = "CPU" in names[0]
    return tf.distribute.MirroredStrategy(names, tf.distribute.ReductionToOneDevice() if is_cpu else None)


def scope_of(strategy: "tf.distribute.Strategy | None") -> contextlib.AbstractContextManager[Any]:
    """The scope that models for a strategy are made in; `None` has one that changes nothing."""
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def made_again(model: ClustrClassifier) -> ClustrClassifier:
    """The same `ClustrClassifier`, with variables on the devices of the scope that this is called in."""
    again = ClustrClassifier.from_config(model.get_config())
    again.backbone.set_weights(model.backbone.get_weights())
    again.head.set_weights(model.head.get_weights())
    again.training_step.assign(model.training_step)
    return again
