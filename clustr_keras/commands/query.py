"""`clustr query`."""

import pathlib
import typing
from typing import Annotated, Any

import typer

from clustr_keras.commands.answering import answering
from clustr_keras.commands.inputs import images_to_test, load_data
from clustr_keras.commands.options import (
    DataDirOption,
    DataOption,
    ImageSizeOption,
    JsonOption,
    NameOption,
    SeedOption,
    TargetOption,
    examples_option,
    refuse,
)

if typing.TYPE_CHECKING:
    import rich.table

    from clustr_keras.serving import Prediction


def query(
    context: typer.Context,
    files: Annotated[
        list[pathlib.Path] | None,
        typer.Argument(show_default="test images of --data", help="PNG or JPEG files of the model's size."),
    ] = None,
    target: TargetOption = "127.0.0.1:8500",
    name: NameOption = "clustr",
    version: Annotated[int | None, typer.Option(min=1, show_default="the newest", help="Number of a version.")] = None,
    label: Annotated[str | None, typer.Option(show_default="the newest version", help="Label of a version.")] = None,
    data: DataOption = "digits",
    data_dir: DataDirOption = None,
    image_size: ImageSizeOption = None,
    examples: Annotated[int, examples_option(True)] = 8,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Ask a server for classes and certified radii of images.

    Of files, which the server decodes, or of test images of --data.

    JSON: target, name, version, label, data, seed (both null with files); images, for each image, its file or its
    place in the data set, true_class (null of a file), class_id, class_name, probability, certified_radius (null where
    none is served), is_valid.
    """
    if files:
        refuse(context, ("data", "data_dir", "image_size", "examples", "seed"), "excludes files")
    if version is not None and label is not None:
        raise ValueError("--version and --label exclude each other: both name a version.")
    with answering(as_json) as answer:
        from clustr_keras.serving import Client

        with Client(target, model=name, version=version, label=label) as client:
            if files:
                found: Prediction = client.certify_encoded([path.read_bytes() for path in files])
                images = _rows(found, list(map(str, files)), [None] * len(files))
            else:
                dataset = load_data(data, data_dir, image_size)
                test = images_to_test(dataset, examples, seed)
                found = client.predict(test.images)
                images = _rows(found, test.ids.tolist(), [dataset.class_names[label] for label in test.labels])
        asked = {"target": target, "name": name, "version": version, "label": label}
        asked |= {"data": None, "seed": None} if files else {"data": data, "seed": seed}
        answer({**asked, "images": images}, _table(images))


def _rows(
    found: "Prediction", names: typing.Sequence[Any], true_classes: typing.Sequence[str | None]
) -> list[dict[str, Any]]:
    return [
        {
            "image": names[row],
            "true_class": true_classes[row],
            "class_id": found.class_ids[row],
            "class_name": str(found.class_names[row]),
            "probability": found.probabilities[row].max(),
            "certified_radius": None if found.certified_radius is None else found.certified_radius[row],
            "is_valid": found.is_valid[row],
        }
        for row in range(len(names))
    ]


def _table(images: list[dict[str, Any]]) -> "rich.table.Table":
    import rich.table

    table = rich.table.Table("image", "true class", "predicted", "probability", "certified radius")
    for image in images:
        name, true_class = str(image["image"]), image["true_class"] or "-"
        if not image["is_valid"]:
            table.add_row(name, true_class, "invalid", "-", "-")
            continue
        radius = "-" if image["certified_radius"] is None else f"{image['certified_radius']:.4f}"
        table.add_row(name, true_class, image["class_name"], f"{image['probability']:.3f}", radius)
    return table
