"""`clustr train`."""

import pathlib
from typing import Annotated

import typer

from clustr_keras.commands.answering import answering
from clustr_keras.commands.inputs import import_modules, load_classifier, load_data
from clustr_keras.commands.options import (
    DataDirOption,
    DataOption,
    EpochsOption,
    EpsOption,
    FastOption,
    ImageSizeOption,
    ImportOption,
    JsonOption,
    RadiusOption,
    RecipeOption,
    SeedOption,
    known_devices,
    output_option,
)


def train(
    output: Annotated[pathlib.Path, output_option("The .keras file to write.")] = pathlib.Path("runs/model.keras"),
    data: DataOption = "digits",
    data_dir: DataDirOption = None,
    image_size: ImageSizeOption = None,
    recipe: RecipeOption = "certified",
    epochs: EpochsOption = None,
    margin: Annotated[
        float | None,
        typer.Option(
            min=0.0, show_default="the data's", help="Several times the radius aimed at; for certified alone."
        ),
    ] = None,
    radius: RadiusOption = None,
    eps: EpsOption = None,
    fast: FastOption = False,
    start: Annotated[str | None, typer.Option("--from", help="A .keras file to go on from; not for certified.")] = None,
    imports: ImportOption = None,
    checkpoint: Annotated[
        pathlib.Path | None,
        typer.Option(help="Folder of a checkpoint after each epoch; resumes where it holds one. Not for certified."),
    ] = None,
    csv_log: Annotated[pathlib.Path | None, typer.Option(help="CSV file, a row for each epoch.")] = None,
    tensorboard: Annotated[pathlib.Path | None, typer.Option(help="Folder for TensorBoard.")] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            autocompletion=known_devices,
            show_default="one",
            help="all, or how many GPUs (or CPU devices) share each batch.",
        ),
    ] = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Train a classifier and save it as a .keras file.

    JSON: output, data, recipe, seed, test_images, clean_accuracy; certified_accuracy by radius (recipe certified).
    """
    if output.suffix != ".keras":
        raise ValueError(f"--output must be a .keras file; got {output}.")
    with answering(as_json) as answer:
        import_modules(imports)
        from clustr_keras.training.accuracies import in_words
        from clustr_keras.training.run import run_training

        facts = run_training(
            load_data(data, data_dir, image_size),
            recipe,
            output,
            epochs=epochs,
            margin=margin,
            radii=radius or None,
            eps=eps,
            fast=fast,
            start=None if start is None else load_classifier(start, "An exported version cannot be trained.", "--from"),
            checkpoint=checkpoint,
            csv_log=csv_log,
            tensorboard=tensorboard,
            seed=seed,
            devices=devices,
        )
        figures = {"output": output, "data": data, "recipe": recipe, "seed": seed, **facts}
        answer(figures, f"Saved {output}. Test: {in_words(facts)}.")
