"""`clustr train`: a data set, a recipe, a file."""

import dataclasses
import importlib.util

import keras
import numpy as np

from clustr_keras.data import as_floats
from clustr_keras.progress import EpochProgress, progress_bar, say
from clustr_keras.training.certified import certified_recipe, train_certified
from clustr_keras.training.devices import made_again, scope_of, strategy_for
from clustr_keras.training.epoch_checkpoint import EpochCheckpoint
from clustr_keras.training.recipes import paper_recipe, train

_RADII = (0.3, 0.5)


def run_training(
    dataset,
    name,
    output,
    epochs=None,
    margin=None,
    eps=8 / 255,
    fast=False,
    start=None,
    checkpoint=None,
    csv_log=None,
    tensorboard=None,
    seed=0,
    devices=None,
):
    """Trains by a recipe, shows the progress, saves the model and says how good it is.

    Args:
        dataset: `ImageDataset`.
        name: `"certified"`, or a name that `paper_recipe` knows.
        output: The .keras file to write.
        epochs: Integer, the recipe's number by default.
        margin: Float, of the certified recipe; that of the data set by default.
        eps: Float, l_inf radius of the adversarial recipes.
        fast: Whether to take the recipe's scale for a CPU.
        start: `ClustrClassifier` to go on from.
        checkpoint: Folder to resume from and to save to.
        csv_log: File for a row of each epoch.
        tensorboard: Folder for TensorBoard.
        seed: Integer.
        devices: `"all"`, or how many devices share each batch; one by default. See `strategy_for`.

    Returns:
        The trained `ClustrClassifier`.

    Raises:
        ValueError: If there is no such recipe, it does not go with another argument, or there are too few devices.
    """
    strategy = strategy_for(devices)
    with scope_of(strategy):
        if name == "certified":
            if start is not None or checkpoint is not None or fast:
                raise ValueError(
                    "the recipe certified trains in one go, at one scale; --from, --checkpoint and --fast are for the "
                    "others."
                )
            model = _train_certified(dataset, epochs, margin, seed, _logs(csv_log, tensorboard))
        else:
            recipe = paper_recipe(name, dataset.name, eps, seed)
            recipe = recipe.faster() if fast else recipe
            recipe = recipe if epochs is None else dataclasses.replace(recipe, epochs=epochs)
            model = start if start is None or strategy is None else made_again(start)
            model = _train_stages(dataset, recipe, model, checkpoint, csv_log, tensorboard)
    output.parent.mkdir(parents=True, exist_ok=True)
    model.save(output)
    if strategy is not None:
        model = keras.models.load_model(output, compile=False)  # on one device again
    say(f"Saved {output}. Test: {_accuracies(model, dataset.test, with_certificate=name == 'certified')}.")
    return model


def _train_certified(dataset, epochs, margin, seed, callbacks):
    asked = {name: value for name, value in (("epochs", epochs), ("margin", margin)) if value is not None}
    recipe = dataclasses.replace(certified_recipe(dataset.name, seed), **asked)
    images, labels = as_floats(dataset.train.images), dataset.train.labels
    with progress_bar("Training", recipe.epochs) as report:
        callbacks = [*callbacks, EpochProgress(report)]
        return train_certified(images, labels, dataset.class_names, recipe, callbacks=callbacks)


def _train_stages(dataset, recipe, model, checkpoint, csv_log, tensorboard):
    """Trains by a recipe, and by its pretraining first where there is no model to go on from."""
    stages = [(recipe.pretraining, "pretraining")] if recipe.pretraining is not None and model is None else []
    for stage, part in [*stages, (recipe, "")]:
        folder = checkpoint and checkpoint / part
        callbacks = _logs(_part_of(csv_log, part), tensorboard and tensorboard / part, folder)
        with progress_bar(part.capitalize() or "Training", stage.epochs) as report:
            stage = dataclasses.replace(stage, pretraining=None)
            model = train(dataset, stage, folder, [*callbacks, EpochProgress(report)], model)
    return model


def _logs(csv_log, tensorboard, checkpoint=None):
    callbacks = []
    if csv_log is not None:
        csv_log.parent.mkdir(parents=True, exist_ok=True)
        is_resumed = checkpoint is not None and csv_log.exists()
        if is_resumed:
            _drop_rows(csv_log, EpochCheckpoint(checkpoint).saved_epoch)
        callbacks.append(keras.callbacks.CSVLogger(csv_log, append=is_resumed))
    if tensorboard is not None:
        if importlib.util.find_spec("tensorboard") is None:
            raise ValueError(
                "--tensorboard needs the package tensorboard, which TensorFlow does not bring. "
                "Install it: pip install 'clustr-keras[tensorboard]'."
            )
        callbacks.append(keras.callbacks.TensorBoard(tensorboard))
    return callbacks


def _drop_rows(csv_log, first):
    """Drops the rows of epochs that will be trained again: a kill may have come between them and the checkpoint."""
    header, *rows = csv_log.read_text().splitlines(keepends=True)
    csv_log.write_text("".join([header, *(row for row in rows if int(row.partition(",")[0]) < first)]))


def _part_of(path, part):
    return path.with_suffix(f".{part}{path.suffix}") if path is not None and part else path


def certified_accuracies(certificate, labels):
    """One line: clean accuracy, and certified accuracy at two radii."""
    kind = "certified accuracy"
    if certificate.certified_radius is None:
        kind = "accuracy at radii in real arithmetic, which are not certified:"
        certificate = dataclasses.replace(certificate, certified_radius=certificate.radius)
    shown = [f"{certificate.accuracy_at(radius, labels):.1%} at {radius:g}" for radius in _RADII]
    return f"clean accuracy {certificate.accuracy_at(0.0, labels):.1%}, {kind} {' and '.join(shown)}"


def accuracy_facts(model, images, labels, with_certificate=True):
    """Accuracies for a model card: how many images, clean accuracy, and certified accuracy by radius."""
    facts = {"test_images": len(images)}
    if not with_certificate:
        return facts | {"clean_accuracy": _clean_accuracy(model, images, labels)}
    certificate = model.certify(images)
    facts["clean_accuracy"] = certificate.accuracy_at(0.0, labels)
    if certificate.certified_radius is not None:
        facts["certified_accuracy"] = {str(radius): certificate.accuracy_at(radius, labels) for radius in _RADII}
    return facts


def _accuracies(model, test, with_certificate):
    images = as_floats(test.images)
    if with_certificate:
        return certified_accuracies(model.certify(images), test.labels)
    return f"clean accuracy {_clean_accuracy(model, images, test.labels):.1%}"


def _clean_accuracy(model, images, labels):
    return float(np.mean(model.predict(images, batch_size=250, verbose=0).argmax(-1) == labels))
