"""`clustr query`."""

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
)

if typing.TYPE_CHECKING:
    import rich.table


def query(
    target: TargetOption = "127.0.0.1:8500",
    name: NameOption = "clustr",
    label: Annotated[str | None, typer.Option(show_default="the newest version", help="Label of a version.")] = None,
    data: DataOption = "digits",
    data_dir: DataDirOption = None,
    image_size: ImageSizeOption = None,
    examples: Annotated[int, examples_option(True)] = 8,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Ask a server for classes and certified radii of test images.

    JSON: target, name, label, data, seed; images, for each image, its place in the data set, true_class, class_id,
    class_name, probability, certified_radius (null where none is served), is_valid.
    """
    with answering(as_json) as answer:
        from clustr_keras.serving import Client

        dataset = load_data(data, data_dir, image_size)
        test = images_to_test(dataset, examples, seed)
        with Client(target, model=name, label=label) as client:
            found = client.predict(test.images)
        images = [
            {
                "image": test.ids[row],
                "true_class": dataset.class_names[test.labels[row]],
                "class_id": found.class_ids[row],
                "class_name": str(found.class_names[row]),
                "probability": found.probabilities[row].max(),
                "certified_radius": None if found.certified_radius is None else found.certified_radius[row],
                "is_valid": found.is_valid[row],
            }
            for row in range(len(test.ids))
        ]
        asked = {"target": target, "name": name, "label": label, "data": data, "seed": seed}
        answer({**asked, "images": images}, _table(images))


def _table(images: list[dict[str, Any]]) -> "rich.table.Table":
    import rich.table

    table = rich.table.Table("image", "true class", "predicted", "probability", "certified radius")
    for image in images:
        radius = image["certified_radius"]
        table.add_row(
            str(image["image"]),
            image["true_class"],
            image["class_name"],
            f"{image['probability']:.3f}",
            "-" if radius is None else f"{radius:.4f}",
        )
    return table
