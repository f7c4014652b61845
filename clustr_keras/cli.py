"""`clustr`: train, certify, audit, export, serve and query from the shell."""

import csv
import importlib.util
import logging
import os
import pathlib
import sys
import traceback
import uuid
from typing import Annotated

import typer

from clustr_keras.serving.errors import ServingError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DataOption = Annotated[
    str, typer.Option("--data", help="digits, or a TensorFlow Datasets name such as cifar10, svhn_cropped, mnist.")
]
DataDirOption = Annotated[
    pathlib.Path | None, typer.Option("--data-dir", help="Folder of prepared TensorFlow Datasets.")
]
ModelOption = Annotated[pathlib.Path, typer.Option("--model", help="A .keras file.", exists=True, dir_okay=False)]
ExamplesOption = Annotated[int | None, typer.Option("--examples", min=1, help="Only the first N test images.")]
RecipeOption = Annotated[
    str, typer.Option("--recipe", help="certified, clustr, clustr-qtrades[-paper], standard or trades.")
]
TargetOption = Annotated[str, typer.Option("--target", help="host:port for gRPC, http://host:port for REST.")]
NameOption = Annotated[str, typer.Option("--name", help="Name of the served model.")]


@app.callback()
def start(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
):
    """Classifiers that prove how far an input may move before the answer changes."""
    del debug  # `main` looks for it: it is needed where an error comes from outside of a command too
    if context.invoked_subcommand is None or "--help" in sys.argv or importlib.util.find_spec("tensorflow") is None:
        return
    # TensorFlow's start-up notes are for its developers.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    stderr = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        # They come from C++ before any logger of TensorFlow's is there: only the file descriptor stops them.
        os.dup2(nowhere.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
            tf.get_logger().setLevel("ERROR")
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


@app.command()
def demo(
    output: Annotated[pathlib.Path, typer.Option(help="Folder for model, export and report.")] = pathlib.Path(
        "runs/demo"
    ),
):
    """Train on the bundled digits, certify, attack, audit, export, serve, query, report."""
    from clustr_keras.demo import run_demo

    run_demo(output)


@app.command()
def train(
    output: Annotated[pathlib.Path, typer.Option(help="The .keras file to write.")] = pathlib.Path("runs/model.keras"),
    data: DataOption = "digits",
    data_dir: DataDirOption = None,
    recipe: RecipeOption = "certified",
    epochs: Annotated[int | None, typer.Option(min=1, help="The recipe's number by default.")] = None,
    margin: Annotated[
        float | None, typer.Option(min=0.0, help="certified: about twice the radius aimed at; of the data by default.")
    ] = None,
    eps: Annotated[float, typer.Option(min=0.0, max=1.0, help="clustr-qtrades, trades: the l_inf ball.")] = 8 / 255,
    fast: Annotated[bool, typer.Option("--fast", help="A small convnet and fewer epochs, for a CPU.")] = False,
    start: Annotated[
        pathlib.Path | None, typer.Option("--from", help="A .keras file to go on from.", exists=True, dir_okay=False)
    ] = None,
    checkpoint: Annotated[
        pathlib.Path | None, typer.Option(help="Folder of a checkpoint after each epoch; resumes where it holds one.")
    ] = None,
    csv_log: Annotated[pathlib.Path | None, typer.Option(help="CSV file, a row for each epoch.")] = None,
    tensorboard: Annotated[pathlib.Path | None, typer.Option(help="Folder for TensorBoard.")] = None,
    devices: Annotated[
        str | None, typer.Option(help="all, or how many GPUs (or CPU devices) share each batch; one by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
):
    """Train a classifier and save it as a .keras file."""
    if output.suffix != ".keras":
        raise ValueError(f"--output must be a .keras file; got {output}.")
    from clustr_keras.training.run import run_training

    run_training(
        _load(data, data_dir),
        recipe,
        output,
        epochs=epochs,
        margin=margin,
        eps=eps,
        fast=fast,
        start=None if start is None else _load_classifier(start),
        checkpoint=checkpoint,
        csv_log=csv_log,
        tensorboard=tensorboard,
        seed=seed,
        devices=devices,
    )


@app.command()
def tune(
    output: Annotated[pathlib.Path, typer.Option(help="Folder of the search, which goes on where it was stopped.")] = (
        pathlib.Path("runs/tune")
    ),
    data: DataOption = "digits",
    data_dir: DataDirOption = None,
    recipe: RecipeOption = "certified",
    tuner: Annotated[str, typer.Option(help="random, bayesian or hyperband.")] = "random",
    objective: Annotated[
        str | None, typer.Option(help="certified, robust, clean, clean+certified or clean+robust.")
    ] = None,
    radius: Annotated[float | None, typer.Option(min=0.0, help="Where certified accuracy counts.")] = None,
    eps: Annotated[float, typer.Option(min=0.0, max=1.0, help="The l_inf ball of attacks.")] = 8 / 255,
    fast: Annotated[bool, typer.Option("--fast", help="A small convnet and fewer epochs, for a CPU.")] = False,
    max_trials: Annotated[int, typer.Option(min=1, help="In all; Hyperband has a schedule of its own.")] = 10,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of a trial; the recipe's number by default.")] = None,
    retrain: Annotated[
        pathlib.Path | None, typer.Option(help="The .keras file for the best settings, on all training images.")
    ] = None,
    chief: Annotated[str | None, typer.Option(help="host:port: hand out trials there, to workers.")] = None,
    worker: Annotated[str | None, typer.Option(help="host:port of the chief: work for it.")] = None,
    worker_name: Annotated[str | None, typer.Option(help="One that no other worker has; by default made up.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
):
    """Search for the best settings of a recipe, with KerasTuner."""
    if chief is not None and worker is not None:
        raise ValueError("--chief and --worker exclude each other: a process is one or the other.")
    if retrain is not None and (retrain.suffix != ".keras" or worker is not None):
        raise ValueError("--retrain must be a .keras file, and is for the chief or a search without one.")
    if importlib.util.find_spec("keras_tuner") is None:
        raise ValueError("tune needs KerasTuner. Install it: pip install 'clustr-keras[tuning]'.")
    from clustr_keras.tuning.run import run_search

    role = "chief" if chief else (worker_name or f"worker-{uuid.uuid4().hex[:8]}") if worker else None
    run_search(
        _load(data, data_dir),
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


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def certify(
    context: typer.Context,
    model: Annotated[str, typer.Option("--model", help="A .keras file; with --input also an exported version.")],
    data: DataOption = "digits",
    data_dir: DataDirOption = None,
    examples: Annotated[int | None, typer.Option("--examples", min=1, help="Only the first N images.")] = None,
    method: Annotated[str | None, typer.Option(help="nearest, union or exact; the best that fits by default.")] = None,
    output: Annotated[
        str | None, typer.Option(help="CSV file, a row for each image; with --input a folder of Parquet files.")
    ] = None,
    input: Annotated[  # noqa: A002 - the name of the option
        str | None,
        typer.Option(
            help="Many images, through Apache Beam: a folder of PNG and JPEG files, TFRecord files (a pattern), or the "
            "name of a TensorFlow data set. What follows and is not known here goes to Beam: --direct_num_workers 4."
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="--input: such as test or train+test; all by default.")] = None,
    runner: Annotated[str, typer.Option(help="--input: Beam's runner, such as FlinkRunner.")] = "DirectRunner",
    shard_size: Annotated[int, typer.Option(min=1, help="--input: images in a Parquet file.")] = 1024,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that go through the model together.")] = 256,
    threads_per_worker: Annotated[int, typer.Option(min=1, help="--input: that a worker computes with.")] = 1,
    resize: Annotated[
        bool, typer.Option("--resize", help="--input: resize images of another size; they are invalid otherwise.")
    ] = False,
):
    """Classify the test images, or those of --input, and prove how far each may move."""
    if not pathlib.Path(model).exists() and "://" not in model:
        raise ValueError(f"--model {model} does not exist.")
    if input is None:
        _refuse(context, ("split", "runner", "shard_size", "threads_per_worker", "resize"), "needs --input")
        if context.args:
            raise ValueError(f"there is no option or argument {context.args[0]}; see clustr certify --help.")
        _certify_test_images(model, _load(data, data_dir), examples, method, batch_size, output)
        return
    _refuse(context, ("data",), "excludes --input, which names the images")
    if output is None:
        raise ValueError("--input needs --output, a folder for the Parquet files.")
    if importlib.util.find_spec("apache_beam") is None:
        raise ValueError(
            "--input needs Apache Beam, which cannot live beside protobuf 7. Install it into an environment of its "
            "own: pip install 'clustr-keras[beam]'."
        )
    notes = logging.NullHandler()
    logging.getLogger().addHandler(notes)  # Beam tells which of its extras are missing when it is imported
    from clustr_keras.bulk import certify_in_bulk

    logging.getLogger().removeHandler(notes)
    certify_in_bulk(
        input,
        output,
        model,
        data_dir=data_dir,
        split=split,
        examples=examples,
        method=method,
        resize=resize,
        shard_size=shard_size,
        batch_size=batch_size,
        threads=threads_per_worker,
        runner=runner,
        flags=context.args,
    )


@app.command()
def audit(
    model: ModelOption,
    data: DataOption = "digits",
    data_dir: DataDirOption = None,
    examples: ExamplesOption = None,
    reach: Annotated[bool, typer.Option("--reach", help="Also measure how near the smallest flips come.")] = False,
    output: Annotated[pathlib.Path, typer.Option(help="Folder for figures and counterexamples.")] = pathlib.Path(
        "runs/audit"
    ),
    seed: Annotated[int, typer.Option(min=0)] = 0,
):
    """Attack every test image inside its certified radius; exit status 1 if any certificate is refuted."""
    from clustr_keras.evaluation.audit_run import run_audit

    x_test, _ = _test_images(_load(data, data_dir), examples)
    audited = run_audit(_load_classifier(model), x_test, output, with_reach=reach, seed=seed)
    if len(audited.violations):
        raise typer.Exit(1)


@app.command()
def evaluate(
    model: Annotated[pathlib.Path, typer.Option("--model", help="A .keras file or a SavedModel.", exists=True)],
    data: DataOption = "digits",
    data_dir: DataDirOption = None,
    examples: Annotated[int | None, typer.Option("--examples", min=1, help="A random sample of N test images.")] = None,
    threat_model: Annotated[
        list[str] | None, typer.Option(help="Norm and eps, such as l_inf:8/255 or l_2:0.5; may be repeated.")
    ] = None,
    attack: Annotated[list[str] | None, typer.Option(help="Name of an attack; may be repeated.")] = None,
    scores: Annotated[str | None, typer.Option(help="Of a ClustrClassifier: distance (default), log or paper.")] = None,
    subset: Annotated[int, typer.Option(min=1, help="Examples for each attack alone and the diagnostics.")] = 500,
    output: Annotated[pathlib.Path, typer.Option(help="Folder for figures and what attacks found.")] = pathlib.Path(
        "runs/evaluate"
    ),
    seed: Annotated[int, typer.Option(min=0)] = 0,
):
    """Attack any classifier, look for masked gradients; exit status 1 if a diagnostic or a certificate fails."""
    from clustr_keras.evaluation import DEFAULT_ATTACKS, DEFAULT_THREAT_MODELS, ThreatModel
    from clustr_keras.evaluation.evaluate_run import run_evaluation

    evaluation = run_evaluation(
        _load_any(model),
        _load(data, data_dir),
        [ThreatModel.parse(text) for text in threat_model] if threat_model else DEFAULT_THREAT_MODELS,
        attack or DEFAULT_ATTACKS,
        output,
        examples,
        scores,
        subset,
        seed,
    )
    if not evaluation.passed:
        raise typer.Exit(1)


@app.command()
def export(
    model: ModelOption,
    output: Annotated[pathlib.Path, typer.Option(help="Model directory; the version folder goes into it.")],
    version: Annotated[int | None, typer.Option(min=1, help="The next one by default.")] = None,
    method: Annotated[str | None, typer.Option(help="nearest, union or exact; the best that fits by default.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="For accuracies in the model card, and --verify.")] = None,
    data_dir: DataDirOption = None,
    examples: ExamplesOption = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare with the live model on --data, in a fresh process.")
    ] = False,
    resize: Annotated[
        bool, typer.Option("--resize", help="Resize encoded images of another size; they are invalid otherwise.")
    ] = False,
    max_pixels: Annotated[int, typer.Option(min=1, help="Most pixels of an encoded image.")] = 2**24,
    without_certificate: Annotated[
        bool, typer.Option("--without-certificate", help="Also without a proved bound: then no radius is served.")
    ] = False,
):
    """Write a SavedModel for TensorFlow Serving that answers with its proof."""
    if verify and data is None:
        raise ValueError("--verify compares on real images: say which, --data digits for example.")
    from clustr_keras.progress import say
    from clustr_keras.serving import export_model
    from clustr_keras.training.run import accuracy_facts

    classifier, facts, x_test = _load_classifier(model), {}, None
    if data is not None:
        x_test, y_test = _test_images(_load(data, data_dir), examples)
        facts = {"data_set": data, **accuracy_facts(classifier, x_test, y_test, not without_certificate)}
    folder = export_model(
        classifier,
        output,
        version,
        method,
        facts,
        max_pixels,
        resize=resize,
        certificate=not without_certificate,
        verify_on=x_test[:256] if verify else None,
    )
    same = f", which answers as the live model does on {min(256, len(x_test))} images" if verify else ""
    say(f"Exported to {folder}{same}.")


@app.command()
def serve(
    directory: Annotated[pathlib.Path, typer.Argument(help="Folder that holds the version folders.")],
    name: NameOption = "clustr",
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free port.")] = 8500,
    rest_port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free port.")] = 8501,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    label: Annotated[list[str] | None, typer.Option(help="Such as stable=1; may be repeated.")] = None,
    max_batch_size: Annotated[int, typer.Option(min=1, help="Most images that run together.")] = 256,
    batch_timeout_micros: Annotated[int, typer.Option(min=0, help="How long a request waits for company.")] = 0,
    max_enqueued_batches: Annotated[int, typer.Option(min=1, help="How much may wait; then UNAVAILABLE.")] = 100,
    num_batch_threads: Annotated[int, typer.Option(min=1, help="How many batches run at a time.")] = 2,
    max_request_bytes: Annotated[int, typer.Option(min=1, help="Largest request.")] = 64 * 2**20,
    rest_timeout_seconds: Annotated[float, typer.Option(min=0.0, help="How long a REST request may wait.")] = 30.0,
    poll_seconds: Annotated[float, typer.Option(min=0.01, help="How often to look for new versions.")] = 1.0,
    engine: Annotated[
        str, typer.Option(help="embedded; or tensorflow_model_server, which needs --host 0.0.0.0.")
    ] = "embedded",
):
    """Serve a model directory over gRPC and REST, as TensorFlow Serving would, until interrupted."""
    from clustr_keras.serving.batching import BatchingParameters

    options = {
        "name": name,
        "grpc_port": grpc_port,
        "rest_port": rest_port,
        "labels": dict(map(_label, label or [])),
        "poll_seconds": poll_seconds,
        "batching": BatchingParameters(max_batch_size, batch_timeout_micros, max_enqueued_batches, num_batch_threads),
    }
    if engine == "embedded":
        from clustr_keras.serving import LocalServer

        limits = {"max_request_bytes": max_request_bytes, "rest_timeout_seconds": rest_timeout_seconds}
        server = LocalServer(directory, host=host, **limits, **options)
    elif pathlib.Path(engine).name != "tensorflow_model_server":
        raise ValueError(f"--engine must be embedded or tensorflow_model_server, alone or with its path; got {engine}.")
    else:
        from clustr_keras.serving.model_server import ModelServer

        if host != "0.0.0.0":
            raise ValueError(f"{engine} listens on all interfaces, not on {host} only: say --host 0.0.0.0 to allow it.")
        server = ModelServer(directory, binary=engine, **options)

    def announce(server):
        print(f"gRPC  {server.grpc_target}\nREST  {server.rest_url}/v1/models/{name}", flush=True)

    server.run(on_ready=announce)


@app.command()
def query(
    target: TargetOption = "127.0.0.1:8500",
    name: NameOption = "clustr",
    label: Annotated[str | None, typer.Option(help="Label of a version; the newest version by default.")] = None,
    data: DataOption = "digits",
    data_dir: DataDirOption = None,
    examples: Annotated[int, typer.Option("--examples", min=1, help="The first N test images.")] = 8,
):
    """Ask a server for classes and certified radii of test images."""
    import rich.table

    from clustr_keras.progress import console
    from clustr_keras.serving import Client

    dataset = _load(data, data_dir)
    x_test, y_test = _test_images(dataset, examples)
    with Client(target, model=name, label=label) as client:
        answer = client.predict(x_test)
    table = rich.table.Table("image", "true class", "predicted", "probability", "certified radius")
    for row in range(len(answer.class_ids)):
        table.add_row(
            str(row),
            dataset.class_names[y_test[row]],
            str(answer.class_names[row]),
            f"{answer.probabilities[row].max():.3f}",
            "-" if answer.certified_radius is None else f"{answer.certified_radius[row]:.4f}",
        )
    console.print(table)


@app.command("load-test")
def load_test(
    target: TargetOption = "127.0.0.1:8500",
    name: NameOption = "clustr",
    signature: Annotated[str, typer.Option(help="One whose only input is images.")] = "serving_default",
    data: DataOption = "digits",
    data_dir: DataDirOption = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a request.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, help="Callers, each of which waits for its answer.")] = 8,
    requests: Annotated[int, typer.Option(min=1, help="Most requests.")] = 1000,
    seconds: Annotated[float, typer.Option(min=0.001, help="Most seconds.")] = 10.0,
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="Load a server on another machine.")] = False,
    output: Annotated[pathlib.Path | None, typer.Option(help="JSON file for the figures.")] = None,
):
    """Measure throughput and latency of a server; exit status 1 if a request failed."""
    from clustr_keras.evaluation.results_file import write_json
    from clustr_keras.serving import run_load_test

    x_test, _ = _test_images(_load(data, data_dir), None)
    result = run_load_test(
        target,
        x_test,
        model=name,
        signature=signature,
        batch_size=batch_size,
        concurrency=concurrency,
        requests=requests,
        seconds=seconds,
        allow_remote=allow_remote,
    )
    result.report()
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(output, result.as_dict())
    if result.errors:
        raise typer.Exit(1)


def main():
    """Runs the command line: an error is one line, and exit status 2, with `--debug` its traceback as well."""
    try:
        app()
    except Exception as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        expected = isinstance(error, ValueError | OSError | RuntimeError | ServingError)
        message = str(error) if expected else f"{type(error).__name__}: {' '.join(str(error).split())}"
        hint = "" if expected or "--debug" in sys.argv else " (clustr --debug ... shows where)"
        print(f"clustr: {message}{hint}", file=sys.stderr)
        sys.exit(2)


def _certify_test_images(model, dataset, examples, method, batch_size, output):
    from clustr_keras.progress import console, say
    from clustr_keras.training.run import certified_accuracies

    classifier = _load_classifier(pathlib.Path(model))
    x_test, y_test = _test_images(dataset, examples)
    verbose = 1 if console.is_terminal else 0
    certificate = classifier.certify(x_test, method=method, batch_size=batch_size, verbose=verbose)
    if output is not None:
        path = pathlib.Path(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            columns = ("class_ids", "runner_up_class_ids", "nearest_cluster", "certified_radius", "radius")
            writer.writerow(["image", "label", *columns])
            rows = zip(y_test, *(getattr(certificate, column) for column in columns), strict=True)
            writer.writerows([index, *row] for index, row in enumerate(rows))
        say(f"Wrote {path}.")
    say(f"{len(x_test)} images: {certified_accuracies(certificate, y_test)}.")


def _refuse(context, names, why):
    """Refuses options that were given and do not go with others."""
    for name in names:
        if context.get_parameter_source(name).name == "COMMANDLINE":
            raise ValueError(f"--{name.replace('_', '-')} {why}.")


def _label(text):
    """Label and version of `stable=1`."""
    label, _, version = text.partition("=")
    if not label or not version.isdecimal():
        raise ValueError(f"--label must be a label and a version number, such as stable=1; got {text!r}.")
    return label, int(version)


def _load(data, data_dir):
    from clustr_keras.data import load

    return load(data, data_dir)


def _test_images(dataset, examples):
    """The first test images, floats in [0, 1], and their labels."""
    from clustr_keras.data import as_floats

    test = dataset.test
    return as_floats(test.images[:examples]), test.labels[:examples]


def _load_any(path):
    """A Keras model, or the path of a SavedModel as it is."""
    if path.is_dir():
        return path
    import keras

    import clustr_keras  # noqa: F401 - registers its classes

    return keras.models.load_model(path)


def _load_classifier(path):
    import keras

    from clustr_keras.classifier import ClustrClassifier

    model = keras.models.load_model(path)
    if not isinstance(model, ClustrClassifier):
        raise ValueError(f"--model must hold a ClustrClassifier; {path} holds a {type(model).__name__}.")
    return model
