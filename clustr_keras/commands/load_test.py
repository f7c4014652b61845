"""`clustr load-test`."""

import pathlib
from typing import Annotated

import typer

from clustr_keras.commands.answering import answering, fail_unless
from clustr_keras.commands.inputs import images_to_test, load_data
from clustr_keras.commands.options import (
    BatchSizeOption,
    DataDirOption,
    DataOption,
    ImageSizeOption,
    JsonOption,
    NameOption,
    TargetOption,
    output_option,
)


def load_test(
    target: TargetOption = "127.0.0.1:8500",
    name: NameOption = "clustr",
    signature: Annotated[str, typer.Option(help="One whose only input is images.")] = "serving_default",
    data: DataOption = "digits",
    data_dir: DataDirOption = None,
    image_size: ImageSizeOption = None,
    batch_size: BatchSizeOption = 1,
    concurrency: Annotated[int, typer.Option(min=1, help="Callers, each of which waits for its answer.")] = 8,
    requests: Annotated[int, typer.Option(min=1, help="Most requests.")] = 1000,
    seconds: Annotated[float, typer.Option(min=0.001, help="Most seconds.")] = 10.0,
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="Load a server on another machine.")] = False,
    output: Annotated[pathlib.Path | None, output_option("JSON file for the figures.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure throughput and latency of a server.

    With the test images of --data, --batch-size of them in a request. Exit status 1 if a request failed.

    JSON: target, name, signature, batch_size, concurrency, requests, seconds, requests_per_second, images_per_second,
    p50_ms, p95_ms, p99_ms, errors (gRPC code to how many).
    """
    with answering(as_json) as answer:
        from clustr_keras.results_file import write_json
        from clustr_keras.serving import run_load_test

        result = run_load_test(
            target,
            images_to_test(load_data(data, data_dir, image_size), None).images,
            model=name,
            signature=signature,
            batch_size=batch_size,
            concurrency=concurrency,
            requests=requests,
            seconds=seconds,
            allow_remote=allow_remote,
        )
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            write_json(output, result.as_dict())
        answer(result.as_dict(), result.table())
    fail_unless(not result.errors)
