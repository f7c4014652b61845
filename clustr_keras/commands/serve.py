"""`clustr serve`."""

import pathlib
from typing import Annotated, Any

import typer

from clustr_keras.commands.answering import answering
from clustr_keras.commands.options import SERVER_PORTS, JsonOption, NameOption, known_engines


def serve(
    directory: Annotated[
        pathlib.Path | None, typer.Argument(help="Folder that holds the version folders.", show_default=False)
    ] = None,
    name: NameOption = "clustr",
    grpc_port: Annotated[int, typer.Option(**SERVER_PORTS, help="0 picks a free port.")] = 8500,
    rest_port: Annotated[int, typer.Option(**SERVER_PORTS, help="0 picks a free port.")] = 8501,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    label: Annotated[list[str] | None, typer.Option(help="Such as stable=1; may be repeated.")] = None,
    model_config_file: Annotated[
        pathlib.Path | None, typer.Option(help="In place of DIRECTORY, --name and --label: ModelServer's own file.")
    ] = None,
    max_batch_size: Annotated[int, typer.Option(min=1, help="Most images that run together.")] = 256,
    batch_timeout_micros: Annotated[int, typer.Option(min=0, help="How long a request waits for company.")] = 0,
    max_enqueued_batches: Annotated[int, typer.Option(min=1, help="How much may wait; then UNAVAILABLE.")] = 100,
    num_batch_threads: Annotated[int, typer.Option(min=1, help="How many batches run at a time.")] = 2,
    max_request_bytes: Annotated[int, typer.Option(min=1, help="Largest request.")] = 64 * 2**20,
    rest_timeout_seconds: Annotated[float, typer.Option(min=0.0, help="How long a REST request may wait.")] = 30.0,
    poll_seconds: Annotated[float, typer.Option(min=0.01, help="How often to look for new versions.")] = 1.0,
    engine: Annotated[
        str,
        typer.Option(
            autocompletion=known_engines,
            help="embedded; or tensorflow_model_server, which needs --host 0.0.0.0.",
        ),
    ] = "embedded",
    as_json: JsonOption = False,
) -> None:
    """Serve a model directory over gRPC and REST, until interrupted.

    As TensorFlow Serving would; or by it, with --engine. Many models: --model-config-file.

    JSON, one line when it is ready: names, grpc_target, rest_url.
    """
    from clustr_keras.serving.batching import BatchingParameters

    if model_config_file and name != "clustr":
        raise ValueError(f"with --model-config-file, names are given in it; got --name {name} beside it.")
    options: dict[str, Any] = {
        "name": name,
        "grpc_port": grpc_port,
        "rest_port": rest_port,
        "labels": dict(map(_label, label or [])),
        "model_config_file": model_config_file,
        "poll_seconds": poll_seconds,
        "batching": BatchingParameters(max_batch_size, batch_timeout_micros, max_enqueued_batches, num_batch_threads),
    }
    server: Any  # one of two classes of the same attributes
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
    with answering(as_json) as answer:

        def announce(ready: Any) -> None:
            urls = [f"REST  {ready.rest_url}/v1/models/{name}" for name in ready.names]
            figures = {"names": ready.names, "grpc_target": ready.grpc_target, "rest_url": ready.rest_url}
            answer(figures, "\n".join([f"gRPC  {ready.grpc_target}", *urls]), indent=None)

        server.run(on_ready=announce)


def _label(text: str) -> tuple[str, int]:
    """Label and version of `stable=1`."""
    label, _, version = text.partition("=")
    if not label or not version.isdecimal():
        raise ValueError(f"--label must be a label and a version number, such as stable=1; got {text!r}.")
    return label, int(version)
