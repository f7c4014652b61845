"""Checkpoints at epoch ends that a killed training goes on from as if nothing had happened."""

import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from clustr_keras.backend import strategy_scope
from clustr_keras.data import ImageBatches
from clustr_keras.training.magnet_batches import MagnetBatches

_FILE = "checkpoint.npz"

# What Keras' own callbacks count in: ReduceLROnPlateau, EarlyStopping, ModelCheckpoint.
_COUNTERS = ("best", "best_epoch", "cooldown_counter", "stopped_epoch", "wait")


class EpochCheckpoint(keras.callbacks.Callback):
    """Saves all that the coming epochs depend on at the end of each.

    That is: every variable of the model, those of its random seeds among them, and of its optimizer; the perturbation
    of free adversarial training; the state of `MagnetBatches` (running losses, clusters); and the counters of Keras'
    callbacks. The order of the data is a function of seed and epoch and needs no state. With the determinism that
    `tf.config.experimental.enable_op_determinism()` gives, a resumed training ends with the same weights to the last
    bit. The file is replaced in one piece: a kill at any time leaves the old one or the new one.

    Args:
        directory: Folder of the checkpoint.
        batches: `MagnetBatches` or `ImageBatches` of the training, or `None`.
        callbacks: Other callbacks of the training; of those that count, the numbers are kept. This one goes behind them
            in `fit`.

    Example:

    >>> checkpoint = EpochCheckpoint("runs/checkpoint", batches)
    >>> first = checkpoint.restore(model)
    >>> model.fit(batches, initial_epoch=first, epochs=90, callbacks=[KMeansRefresh(batches), checkpoint])
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        batches: MagnetBatches | ImageBatches | None = None,
        callbacks: Iterable[keras.callbacks.Callback] = (),
    ) -> None:
        super().__init__()
        self.directory = pathlib.Path(directory)
        self.batches = batches
        self.callbacks = [callback for callback in callbacks if _numbers(callback)]
        self._numbers: list[tuple[keras.callbacks.Callback, dict[str, float | None]]] = []

    @property
    def path(self) -> pathlib.Path:
        """The file."""
        return self.directory / _FILE

    @property
    def saved_epoch(self) -> int:
        """Integer, the epoch that a resumed training begins with; 0 where there is no checkpoint."""
        if not self.path.exists():
            return 0
        with np.load(self.path, allow_pickle=False) as saved:
            return json.loads(str(saved["about"]))["epoch"]

    def restore(self, model: keras.Model) -> int:
        """Puts model, optimizer, batches and callbacks where the last checkpoint left them.

        Args:
            model: The compiled model.

        Returns:
            Integer, the epoch to go on with: `initial_epoch` of `fit`. 0 where there is no checkpoint.

        Raises:
            ValueError: If the checkpoint is of another model or another data set.
        """
        if not self.path.exists():
            return 0
        with np.load(self.path, allow_pickle=False) as saved:
            about = json.loads(str(saved["about"]))
            self._check_batches(about["has_batch_state"])
            self._restore_variables(model, saved)
            if isinstance(self.batches, MagnetBatches):
                self.batches.set_state(_with_prefix(saved, "batches."))
        epoch = about["epoch"]
        if isinstance(self.batches, ImageBatches):
            self.batches.epoch = epoch
        self._numbers = list(zip(self.callbacks, about["callbacks"], strict=True))
        return epoch

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Puts back what callbacks count in, after they have set it to its start."""
        for callback, numbers in self._numbers:
            vars(callback).update(numbers)
        self._numbers = []

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves."""
        arrays = {f"variable.{index}": value for index, value in enumerate(_values(self.model))}
        state = self.batches.get_state() if isinstance(self.batches, MagnetBatches) else {}
        arrays.update({f"batches.{name}": value for name, value in state.items()})
        about = {
            "epoch": epoch + 1,
            "variables": [[variable.path, list(variable.shape)] for variable in _variables(self.model)],
            "has_batch_state": bool(state),
            "callbacks": [_numbers(callback) for callback in self.callbacks],
        }
        self.directory.mkdir(parents=True, exist_ok=True)
        temporary = self.directory / f".{_FILE}"
        with temporary.open("wb") as file:
            np.savez(file, about=np.array(json.dumps(about)), **arrays)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)

    def _check_batches(self, had_state):
        has_state = isinstance(self.batches, MagnetBatches)
        if had_state != has_state:
            raise ValueError(
                f"the checkpoint {self.path} was saved {'with' if had_state else 'without'} MagnetBatches, and is to "
                f"be restored {'with' if has_state else 'without'} them. Pass the batches of that training."
            )

    def _restore_variables(self, model, saved):
        if model.optimizer is not None and not model.optimizer.built:
            with strategy_scope(model):
                model.optimizer.build(model.trainable_variables)
        variables = _variables(model)
        shapes = [list(shape) for _, shape in json.loads(str(saved["about"]))["variables"]]
        if shapes != [list(variable.shape) for variable in variables]:
            raise ValueError(
                f"the checkpoint {self.path} holds {len(shapes)} variables that do not fit the model's "
                f"{len(variables)}. Resume with the model, optimizer and compile arguments that it was saved with, "
                "or choose another folder."
            )
        for index, variable in enumerate(variables):
            variable.assign(saved[f"variable.{index}"])


def _variables(model):
    """All variables but metrics, which every epoch resets, and what a step only passes on."""
    of_metrics = {id(variable) for metric in model.metrics for variable in metric.variables}
    passing = id(getattr(model, "example_losses", None))
    variables = [v for v in model.variables if id(v) not in of_metrics and id(v) != passing]
    if model.optimizer is not None:
        variables += model.optimizer.variables
    return variables + list(getattr(model, "free_variables", ()))


def _values(model):
    # NumPy's files do not know bfloat16, which float32 holds exactly.
    values = [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in _variables(model)]
    return [value if value.dtype.kind in "fiub" else value.astype("float32") for value in values]


def _numbers(callback):
    """What a callback counts in, as JSON."""
    state = {name: getattr(callback, name) for name in _COUNTERS if hasattr(callback, name)}
    return {name: None if value is None else float(value) for name, value in state.items()}


def _with_prefix(saved, prefix):
    return {name[len(prefix) :]: saved[name] for name in saved.files if name.startswith(prefix)}
