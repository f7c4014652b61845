"""`clustr train`: a data set, a recipe, a file."""

import dataclasses
import importlib.util
import pathlib
from collections.abc import Sequence
from typing import Any

import keras

from clustr_keras.classifier import ClustrClassifier
from clustr_keras.data import ImageDataset, as_floats
from clustr_keras.installation import install_command
from clustr_keras.progress import progress_bar, say
from clustr_keras.training.accuracies import accuracy_facts
from clustr_keras.training.certified import CertifiedRecipe, borrowed_settings, certified_recipe, train_certified
from clustr_keras.training.devices import made_again, scope_of, strategy_for
from clustr_keras.training.epoch_checkpoint import EpochCheckpoint
from clustr_keras.training.epoch_progress import EpochProgress
from clustr_keras.training.recipes import Recipe, paper_recipe, train


def run_training(
    dataset: ImageDataset,
    name: str,
    output: pathlib.Path,
    epochs: int | None = None,
    margin: float | None = None,
    radii: Sequence[float] | None = None,
    eps: float | None = None,
    fast: bool = False,
    start: ClustrClassifier | None = None,
    checkpoint: pathlib.Path | None = None,
    csv_log: pathlib.Path | None = None,
    tensorboard: pathlib.Path | None = None,
    seed: int = 0,
    devices: str | int | None = None,
) -> dict[str, Any]:
    """Trains by a recipe, shows the progress, saves the model and finds out how good it is.

    Args:
        dataset: `ImageDataset`.
        name: `"certified"`, or a name that `paper_recipe` knows.
        output: The .keras file to write.
        epochs: Integer, the recipe's number by default.
        margin: Float, of the certified recipe; that of the data set by default.
        radii: Floats, where the certified recipe's accuracy is told; those of the data set by default.
        eps: Float, l_inf radius of the adversarial recipes, 8/255 by default.
        fast: Whether to take the recipe's scale for a CPU.
        start: `ClustrClassifier` to go on from.
        checkpoint: Folder to resume from and to save to.
        csv_log: File for a row of each epoch.
        tensorboard: Folder for TensorBoard.
        seed: Integer.
        devices: `"all"`, or how many devices share each batch; one by default. See `strategy_for`.

    Returns:
        The figures of `accuracy_facts` on the test images.

    Raises:
        ValueError: If there is no such recipe, it does not go with another argument, or there are too few devices.
    """
    keras.utils.set_random_seed(seed)  # for a model to go on from; a fresh one is made after the recipe's seed
    strategy = strategy_for(devices)
    with scope_of(strategy):
        if name == "certified":
            if start is not None or checkpoint is not None or fast or eps is not None:
                raise ValueError(
                    "the recipe certified trains in one go, at one scale, without an attack; --from, --checkpoint, "
                    "--fast and --eps are for the others."
                )
            given: dict[str, Any] = {"epochs": epochs, "margin": margin, "radii": radii}
            certified = dataclasses.replace(
                certified_recipe(dataset.name, seed, dataset.image_shape),
                **{field: value for field, value in given.items() if value is not None},
            )
            model, radii = _train_certified(dataset, certified, _logs(csv_log, tensorboard)), certified.radii
        else:
            if radii is not None or margin is not None:
                raise ValueError(
                    "--radius and --margin are for the recipe certified: no radius is known of the others."
                )
            recipe = paper_recipe(name, dataset.name, eps, seed)
            if eps is not None and recipe.consistency is None:
                raise ValueError(f"--eps is for recipes that train on attacked images; {name} does not.")
            recipe = recipe.faster() if fast else recipe
            recipe = recipe if epochs is None else dataclasses.replace(recipe, epochs=epochs)
            begun = start if start is None or strategy is None else made_again(start)
            model = _train_stages(dataset, recipe, begun, checkpoint, csv_log, tensorboard)
    output.parent.mkdir(parents=True, exist_ok=True)
    model.save(output)
    if strategy is not None:
        model = keras.models.load_model(output, compile=False)  # on one device again
    return accuracy_facts(model, as_floats(dataset.test.images), dataset.test.labels, radii)


def _train_certified(
    dataset: ImageDataset, recipe: CertifiedRecipe, callbacks: Sequence[keras.callbacks.Callback]
) -> ClustrClassifier:
    borrowed = borrowed_settings(dataset.name, dataset.image_shape)
    if borrowed is not None:
        say(f"{dataset.name} has no settings of its own; those of {borrowed} are a start. See clustr tune --help.")
    images, labels = as_floats(dataset.train.images), dataset.train.labels
    with progress_bar("Training", recipe.epochs) as report:
        callbacks = [*callbacks, EpochProgress(report)]
        return train_certified(images, labels, dataset.class_names, recipe, callbacks=callbacks)


def _train_stages(
    dataset: ImageDataset,
    recipe: Recipe,
    model: ClustrClassifier | None,
    checkpoint: pathlib.Path | None,
    csv_log: pathlib.Path | None,
    tensorboard: pathlib.Path | None,
) -> ClustrClassifier:
    """Trains by a recipe, and by its pretraining first where there is no model to go on from."""

    def train_stage(stage: Recipe, part: str, model: ClustrClassifier | None) -> ClustrClassifier:
        folder = checkpoint and checkpoint / part
        callbacks = _logs(_part_of(csv_log, part), tensorboard and tensorboard / part, folder)
        with progress_bar(part.capitalize() or "Training", stage.epochs) as report:
            alone = dataclasses.replace(stage, pretraining=None)
            return train(dataset, alone, folder, [*callbacks, EpochProgress(report)], model)

    if recipe.pretraining is not None and model is None:
        model = train_stage(recipe.pretraining, "pretraining", None)
    return train_stage(recipe, "", model)


def _logs(
    csv_log: pathlib.Path | None, tensorboard: pathlib.Path | None, checkpoint: pathlib.Path | None = None
) -> list[keras.callbacks.Callback]:
    callbacks: list[keras.callbacks.Callback] = []
    if csv_log is not None:
        csv_log.parent.mkdir(parents=True, exist_ok=True)
        is_resumed = checkpoint is not None and csv_log.exists()
        if checkpoint is not None and is_resumed:
            _drop_rows(csv_log, EpochCheckpoint(checkpoint).saved_epoch)
        callbacks.append(keras.callbacks.CSVLogger(csv_log, append=is_resumed))
    if tensorboard is not None:
        if importlib.util.find_spec("tensorboard") is None:
            raise ValueError(
                "--tensorboard needs the package tensorboard, which TensorFlow does not bring. "
                f"Install it: {install_command('tensorboard')}"
            )
        callbacks.append(keras.callbacks.TensorBoard(tensorboard))
    return callbacks


def _drop_rows(csv_log: pathlib.Path, first: int) -> None:
    """Drops the rows of epochs that will be trained again: a kill may have come between them and the checkpoint."""
    header, *rows = csv_log.read_text().splitlines(keepends=True)
    csv_log.write_text("".join([header, *(row for row in rows if int(row.partition(",")[0]) < first)]))


def _part_of(path: pathlib.Path | None, part: str) -> pathlib.Path | None:
    return path.with_suffix(f".{part}{path.suffix}") if path is not None and part else path
