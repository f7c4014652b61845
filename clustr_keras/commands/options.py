"""Options that several commands have. One name means one thing in all of them, with one help text."""

import math
import os
import pathlib
from typing import Annotated, Any, get_args

import typer

from clustr_keras.names import CertifiedMethod, RecipeName
from clustr_keras.quotient import quotient
from clustr_keras.serving.encoded_images import MAX_PIXELS

SERVER_PORTS = {"min": 0, "max": 65535}


def data_folder(data_dir: pathlib.Path | None = None) -> pathlib.Path:
    """Where prepared data sets lie: in `--data-dir`, or else where TensorFlow Datasets looks by itself."""
    return (data_dir or pathlib.Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")).expanduser()


def known_data(context: typer.Context, incomplete: str) -> list[str]:
    """What completes `--data`: the digits, and what lies prepared."""
    folder = data_folder(context.params.get("data_dir"))
    prepared = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    names = ["digits", *sorted({*prepared} - {"digits", "downloads"})]
    return [name for name in names if name.startswith(incomplete)]


def known_engines(incomplete: str) -> list[str]:
    """What completes `--engine`, beside a path."""
    return [name for name in ("embedded", "tensorflow_model_server") if name.startswith(incomplete)]


def known_devices(incomplete: str) -> list[str]:
    """What completes `--devices`, beside a number."""
    return [name for name in ("all",) if name.startswith(incomplete)]


def number(text: str) -> float:
    """Reads `0.5`, or a fraction such as `36/255`."""
    try:
        value = quotient(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if not 0.0 <= value < math.inf:
        raise typer.BadParameter(f"{text!r} is not finite and at least 0.")
    return value


def refuse(context: typer.Context, names: tuple[str, ...], why: str) -> None:
    """Refuses options that were given and do not go with others."""
    for parameter in context.command.params:
        found = context.get_parameter_source(str(parameter.name))
        if parameter.name in names and found is not None and found.name == "COMMANDLINE":
            raise ValueError(f"{parameter.opts[0]} {why}.")


def output_option(what: str) -> Any:
    """`--output`, always what is written."""
    return typer.Option("--output", help=what)


def examples_option(default: bool | str = "all") -> Any:
    """`--examples`, always a random sample."""
    return typer.Option(
        "--examples", min=1, show_default=default, help="How many images: a random sample, drawn by --seed."
    )


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to stdout.")]
DataOption = Annotated[
    str,
    typer.Option(
        "--data",
        autocompletion=known_data,
        help="digits, or a TensorFlow Datasets name such as cifar10, svhn_cropped, mnist.",
    ),
]
OptionalDataOption = Annotated[str | None, DataOption.__metadata__[0]]
DataDirOption = Annotated[
    pathlib.Path | None, typer.Option("--data-dir", help="Folder of prepared TensorFlow Datasets.")
]
ImageSizeOption = Annotated[
    str | None,
    typer.Option("--image-size", show_default="as stored", help="Resize the images of --data: 64, or 64x48 (H x W)."),
]
ModelOption = Annotated[
    str, typer.Option("--model", help="A .keras file; for certify and evaluate also an exported version.")
]
ImportOption = Annotated[
    list[str] | None,
    typer.Option(
        "--import", show_default=False, help="Module, or .py file, that registers layers of yours; may be repeated."
    ),
]
ExamplesOption = Annotated[int | None, examples_option()]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Of all that is drawn at random.")]
RecipeOption = Annotated[
    RecipeName, typer.Option("--recipe", metavar="<name>", help=f"One of {', '.join(get_args(RecipeName))}.")
]
EpochsOption = Annotated[
    int | None, typer.Option("--epochs", min=1, show_default="the recipe's", help="Epochs of each training.")
]
EpsOption = Annotated[
    float | None,
    typer.Option(
        "--eps",
        min=0.0,
        max=1.0,
        show_default="8/255",
        help="Radius of the l_inf ball of adversarial training and attacks; not for certified.",
    ),
]
FastOption = Annotated[
    bool, typer.Option("--fast", help="A small convnet and fewer epochs, for a CPU; not for certified.")
]
RadiusOption = Annotated[
    list[float] | None,
    typer.Option(
        "--radius",
        parser=number,
        metavar="<number>",
        show_default="the data's",
        help="l_2, where certified accuracy is told: 0.5 or 36/255; may be repeated.",
    ),
]
MethodOption = Annotated[
    CertifiedMethod | None,
    typer.Option("--method", show_default="the best that fits", help="How radii are computed."),
]
BatchSizeOption = Annotated[int, typer.Option("--batch-size", min=1, help="Images that go through the model together.")]
ResizeOption = Annotated[
    bool, typer.Option("--resize", help="Resize images of another size; they are invalid otherwise.")
]
MaxPixelsOption = Annotated[
    int | None,
    typer.Option("--max-pixels", min=1, show_default=str(MAX_PIXELS), help="Most pixels of an encoded image."),
]
TargetOption = Annotated[str, typer.Option("--target", help="host:port for gRPC, http://host:port for REST.")]
NameOption = Annotated[str, typer.Option("--name", help="Name of the served model.")]
