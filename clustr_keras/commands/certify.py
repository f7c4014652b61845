"""`clustr certify`."""

import csv
import importlib.util
import logging
import pathlib
import typing
from typing import Annotated

import typer

from clustr_keras.commands.answering import answering
from clustr_keras.commands.inputs import (
    Images,
    check_exists,
    images_to_test,
    import_modules,
    load_any,
    load_data,
    radii_to_tell,
)
from clustr_keras.commands.options import (
    BatchSizeOption,
    DataDirOption,
    DataOption,
    ExamplesOption,
    ImageSizeOption,
    ImportOption,
    JsonOption,
    MaxPixelsOption,
    MethodOption,
    ModelOption,
    RadiusOption,
    ResizeOption,
    SeedOption,
    output_option,
    refuse,
)
from clustr_keras.installation import install_command

if typing.TYPE_CHECKING:
    from clustr_keras.classifier import Certificate

_COLUMNS = ("class_ids", "runner_up_class_ids", "nearest_cluster", "certified_radius", "radius")


def certify(
    context: typer.Context,
    model: ModelOption,
    imports: ImportOption = None,
    data: DataOption = "digits",
    data_dir: DataDirOption = None,
    image_size: ImageSizeOption = None,
    examples: ExamplesOption = None,
    seed: SeedOption = 0,
    radius: RadiusOption = None,
    method: MethodOption = None,
    output: Annotated[
        str | None, output_option("CSV file, a row for each image; with --input a folder of Parquet files.")
    ] = None,
    batch_size: BatchSizeOption = 256,
    source: Annotated[
        str | None,
        typer.Option(
            "--input",
            help="Many images, through Apache Beam: a folder of PNG and JPEG files, TFRecord files (a pattern), or the "
            "name of a TensorFlow data set. What follows and is not known here goes to Beam: --direct_num_workers 4.",
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(show_default="all", help="--input: such as test or train+test.")] = None,
    runner: Annotated[str, typer.Option(help="--input: Beam's runner, such as FlinkRunner.")] = "DirectRunner",
    shard_size: Annotated[int, typer.Option(min=1, help="--input: images in a Parquet file.")] = 1024,
    threads_per_worker: Annotated[int, typer.Option(min=1, help="--input: that a worker computes with.")] = 1,
    resize: ResizeOption = False,
    max_pixels: MaxPixelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Classify images, and prove how far each may move.

    Of the test images of --data, or those of --input.

    JSON: model, data, output, seed, ids (of a sample), test_images, clean_accuracy, certified_accuracy by radius,
    lipschitz_bound; with --input: model, input, output, images, invalid, labeled, accuracy, mean_certified_radius.
    """
    check_exists(model)
    if source is None:
        refuse(
            context, ("split", "runner", "shard_size", "threads_per_worker", "resize", "max_pixels"), "needs --input"
        )
        if context.args:
            raise ValueError(f"there is no option or argument {context.args[0]}; see clustr certify --help.")
        with answering(as_json) as answer:
            import_modules(imports)
            from clustr_keras.training.accuracies import accuracies_of, in_words

            dataset = load_data(data, data_dir, image_size)
            test = images_to_test(dataset, examples, seed)
            certificate = _certificate(model, test, method, batch_size)
            facts = accuracies_of(certificate, test.labels, radii_to_tell(radius, dataset))
            wrote = () if output is None else (_write_rows(certificate, test, pathlib.Path(output)),)
            figures = {"model": model, "data": data, "output": output, "seed": seed, "ids": test.sample, **facts}
            figures["lipschitz_bound"] = certificate.lipschitz_bound
            answer(figures, *wrote, f"{len(test.ids)} images: {in_words(facts)}.")
        return
    refuse(context, ("data",), "excludes --input, which names the images")
    refuse(context, ("imports",), "excludes --input; an exported version brings its layers along")
    refuse(context, ("radius",), "excludes --input, whose Parquet files hold every radius")
    refuse(context, ("image_size",), "excludes --input, whose images --resize brings to the size of the model")
    if output is None:
        raise ValueError("--input needs --output, a folder for the Parquet files.")
    if importlib.util.find_spec("apache_beam") is None:
        raise ValueError(
            "--input needs Apache Beam, which cannot live beside protobuf 7. Install it into an environment of its "
            f"own: {install_command('beam')}"
        )
    with answering(as_json) as answer:
        notes = logging.NullHandler()
        logging.getLogger().addHandler(notes)  # Beam tells which of its extras are missing when it is imported
        from clustr_keras.bulk import certify_in_bulk

        logging.getLogger().removeHandler(notes)
        summary = certify_in_bulk(
            source,
            output,
            model,
            data_dir=data_dir,
            split=split,
            examples=examples,
            seed=seed,
            method=method,
            resize=resize,
            max_pixels=max_pixels,
            shard_size=shard_size,
            batch_size=batch_size,
            threads=threads_per_worker,
            runner=runner,
            flags=context.args,
        )
        answer({"model": model, "input": source, "output": output, **summary.as_dict()}, f"{output}: {summary}.")


def _certificate(model: str, test: Images, method: str | None, batch_size: int) -> "Certificate":
    """That of a .keras file, or of an exported version, which brings its own."""
    from clustr_keras.classifier import ClustrClassifier
    from clustr_keras.progress import console

    loaded = load_any(model)
    if isinstance(loaded, ClustrClassifier):
        verbose = 1 if console.is_terminal else 0
        return loaded.certify(test.images, method=method, batch_size=batch_size, verbose=verbose)
    if not isinstance(loaded, str):
        raise ValueError(f"--model must hold a ClustrClassifier; {model} holds a {type(loaded).__name__}.")
    if method is not None:
        raise ValueError(f"--method was settled when {model} was exported. Leave it out.")
    from clustr_keras.data.checks import check_images
    from clustr_keras.evaluation import as_target

    target = as_target(loaded)
    if target.certify is None:
        raise ValueError(f"--model {model} has no certificates; clustr export writes a version that has.")
    check_images(test.images, target.image_shape)
    return target.certify(test.images, batch_size)


def _write_rows(certificate: "Certificate", test: Images, path: pathlib.Path) -> str:
    """A row for each image, named by its place in the data set; no certified radius where nothing is certified."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = [getattr(certificate, name) for name in _COLUMNS]
    columns = [[""] * len(test.ids) if column is None else column for column in columns]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", *_COLUMNS])
        writer.writerows(zip(test.ids, test.labels, *columns, strict=True))
    return f"Wrote {path}."
