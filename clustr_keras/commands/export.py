"""`clustr export`."""

import pathlib
from typing import Annotated, Any

import typer

from clustr_keras.commands.answering import answering
from clustr_keras.commands.inputs import images_to_test, import_modules, load_classifier, load_data, radii_to_tell
from clustr_keras.commands.options import (
    DataDirOption,
    ExamplesOption,
    ImageSizeOption,
    ImportOption,
    JsonOption,
    MaxPixelsOption,
    MethodOption,
    ModelOption,
    OptionalDataOption,
    RadiusOption,
    ResizeOption,
    SeedOption,
    output_option,
)
from clustr_keras.serving.encoded_images import MAX_PIXELS

# Images that --verify compares on.
_VERIFIED = 256


def export(
    model: ModelOption,
    output: Annotated[pathlib.Path, output_option("Model directory; the version folder goes into it.")],
    imports: ImportOption = None,
    version: Annotated[int | None, typer.Option(min=1, show_default="the next one", help="Number of it.")] = None,
    method: MethodOption = None,
    data: OptionalDataOption = None,
    data_dir: DataDirOption = None,
    image_size: ImageSizeOption = None,
    examples: ExamplesOption = None,
    seed: SeedOption = 0,
    radius: RadiusOption = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare with the live model on --data, in a fresh process.")
    ] = False,
    resize: ResizeOption = False,
    max_pixels: MaxPixelsOption = None,
    without_certificate: Annotated[
        bool, typer.Option("--without-certificate", help="Also without a proved bound: then no radius is served.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a SavedModel that answers with its proof.

    For TensorFlow Serving, or clustr serve. With --data the model card tells accuracies on its test images.

    JSON: model, output (the version folder), version, verified_on (a number of images), and what the card says of
    --data: data_set, seed, ids (of a sample), test_images, clean_accuracy, certified_accuracy by radius.
    """
    if verify and data is None:
        raise ValueError("--verify compares on real images: say which, --data digits for example.")
    if radius and (data is None or without_certificate):
        raise ValueError(
            "--radius is where accuracy is certified on --data: give --data, and not --without-certificate."
        )
    with answering(as_json) as answer:
        import_modules(imports)
        from clustr_keras.serving import export_model

        classifier = load_classifier(model, "An exported version needs no export: copy its folder.")
        facts: dict[str, Any] = {}
        verify_on = None
        if data is not None:
            from clustr_keras.training.accuracies import accuracy_facts

            dataset = load_data(data, data_dir, image_size)
            test = images_to_test(dataset, examples, seed)
            radii = None if without_certificate else radii_to_tell(radius, dataset)
            facts = {"data_set": data, **accuracy_facts(classifier, test.images, test.labels, radii)}
            if test.sample is not None:
                facts |= {"seed": seed, "ids": test.sample.tolist()}
            verify_on = test.images[:_VERIFIED] if verify else None
        folder = export_model(
            classifier,
            output,
            version,
            method,
            facts,
            max_pixels or MAX_PIXELS,
            resize=resize,
            certificate=not without_certificate,
            verify_on=verify_on,
        )
        verified = 0 if verify_on is None else len(verify_on)
        same = f", which answers as the live model does on {verified} images" if verified else ""
        figures = {"model": model, "output": folder, "version": int(folder.name), "verified_on": verified, **facts}
        answer(figures, f"Exported to {folder}{same}.")
