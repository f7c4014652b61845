"""`clustr tune`."""

import importlib.util
import os
import pathlib
import uuid
from typing import Annotated

import typer

from clustr_keras.commands.answering import answering
from clustr_keras.commands.inputs import load_data
from clustr_keras.commands.options import (
    DataDirOption,
    DataOption,
    EpochsOption,
    EpsOption,
    FastOption,
    ImageSizeOption,
    JsonOption,
    RecipeOption,
    SeedOption,
    number,
    output_option,
)
from clustr_keras.installation import install_command
from clustr_keras.names import ObjectiveName, TunerName


def tune(
    output: Annotated[
        pathlib.Path, output_option("Folder of the search, which goes on where it was stopped.")
    ] = pathlib.Path("runs/tune"),
    data: DataOption = "digits",
    data_dir: DataDirOption = None,
    image_size: ImageSizeOption = None,
    recipe: RecipeOption = "certified",
    tuner: Annotated[TunerName, typer.Option(help="How settings are chosen.")] = "random",
    objective: Annotated[
        ObjectiveName | None,
        typer.Option(show_default="certified, or robust", help="Which accuracy counts; or the mean of two."),
    ] = None,
    radius: Annotated[
        float | None,
        typer.Option(
            parser=number,
            metavar="<number>",
            show_default="the recipe's",
            help="l_2, where certified accuracy counts: 0.5 or 36/255.",
        ),
    ] = None,
    eps: EpsOption = None,
    fast: FastOption = False,
    max_trials: Annotated[int, typer.Option(min=1, help="In all; Hyperband has a schedule of its own.")] = 10,
    epochs: EpochsOption = None,
    retrain: Annotated[
        pathlib.Path | None, typer.Option(help="The .keras file for the best settings, on all training images.")
    ] = None,
    chief: Annotated[str | None, typer.Option(help="host:port: hand out trials there, to workers.")] = None,
    worker: Annotated[str | None, typer.Option(help="host:port of the chief: work for it.")] = None,
    worker_name: Annotated[
        str | None, typer.Option(show_default="made up", help="One that no other worker has.")
    ] = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Search for the best settings of a recipe, with KerasTuner.

    JSON: output, data, recipe, seed; trials, the best first, with settings and metrics; failed, why those failed that
    did; retrained, the accuracies of --retrain; of a worker only worker, its name.
    """
    if chief is not None and worker is not None:
        raise ValueError("--chief and --worker exclude each other: a process is one or the other.")
    if retrain is not None and (retrain.suffix != ".keras" or worker is not None):
        raise ValueError("--retrain must be a .keras file, and is for the chief or a search without one.")
    if importlib.util.find_spec("keras_tuner") is None:
        raise ValueError(f"tune needs KerasTuner. Install it: {install_command('tuning')}")
    role = "chief" if chief else (worker_name or f"worker-{uuid.uuid4().hex[:8]}") if worker else None
    with answering(as_json) as answer:
        from clustr_keras.training.accuracies import in_words
        from clustr_keras.tuning.run import run_search

        search = run_search(
            load_data(data, data_dir, image_size),
            recipe,
            output,
            tuner=tuner,
            objective=objective,
            radius=radius,
            eps=eps,
            fast=fast,
            max_trials=max_trials,
            epochs=epochs,
            retrain=retrain,
            role=role,
            address=chief or worker,
            seed=seed,
        )
        if search is None:
            name = role or os.environ["KERASTUNER_TUNER_ID"]
            answer({"worker": name}, f"{name} has no more to do.")
            return
        shown = [search.leaderboard.table(), f"Wrote {output / 'leaderboard.csv'}."]
        if search.leaderboard.failures:
            shown.append(search.leaderboard.failures_in_words())
        if search.retrained is not None:
            shown.append(f"Saved {retrain}. Test: {in_words(search.retrained)}.")
        answer({"output": output, "data": data, "recipe": recipe, "seed": seed, **search.as_dict()}, *shown)
