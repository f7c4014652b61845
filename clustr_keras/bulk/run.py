"""What `clustr certify --input` does."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam

from clustr_keras.bulk.files import absolute, is_folder, sha256_of
from clustr_keras.bulk.handler import CertifyingHandler, thread_variables
from clustr_keras.bulk.inputs import Sample, find_input
from clustr_keras.bulk.local_workers import supervised
from clustr_keras.bulk.manifest import manifest_of
from clustr_keras.bulk.model_file import image_shape_of
from clustr_keras.bulk.options import is_direct, make_pipeline
from clustr_keras.bulk.output import OutputFolder
from clustr_keras.bulk.pipeline import certify_shards
from clustr_keras.bulk.shards import numbered
from clustr_keras.bulk.summary import Summary, summarize
from clustr_keras.bulk.watch import watching
from clustr_keras.data.checks import check_image_shape
from clustr_keras.progress import say
from clustr_keras.tensorflow_start import start_tensorflow


def certify_in_bulk(
    input: str,  # noqa: A002 - the name of the option
    output: str | os.PathLike[str],
    model: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    split: str | None = None,
    examples: int | None = None,
    seed: int = 0,
    method: str | None = None,
    resize: bool = False,
    shard_size: int = 1024,
    batch_size: int = 256,
    max_pixels: int | None = None,
    threads: int = 1,
    runner: str = "DirectRunner",
    flags: Iterable[str] = (),
) -> Summary:
    """Certifies all images of an input through Beam, and leaves Parquet files of `SCHEMA_COLUMNS`.

    Run again after it was killed, it certifies what is missing: every image is in the output exactly once.

    Args:
        input: Folder of images, file or pattern of TFRecords, name of TensorFlow Datasets, or `digits`.
        output: Folder for the Parquet files, one for each shard.
        model: `.keras` file of a `ClustrClassifier`, or folder of an exported version, that every worker can read.
        data_dir: Folder of prepared TensorFlow Datasets, that every worker can read.
        split: Splits of a data set, such as `test` or `train+test`; all by default.
        examples: Only a random sample of so many images.
        seed: Of that sample.
        method: As for `ClustrClassifier.certify`.
        resize: Whether images of another size are resized; they are invalid otherwise.
        shard_size: Images in a file: what is certified, and lost by a kill, at a time.
        batch_size: Images that go through the model together.
        max_pixels: Largest number of pixels that an encoded image may declare, 2**24 by default; others are invalid.
        threads: Threads that each worker computes with.
        runner: Beam's runner, see `make_pipeline`.
        flags: Beam's own flags, list of strings.

    Returns:
        A `Summary` of all rows.

    Raises:
        ValueError: If an argument is out of range, input or model are not what is expected, or the output folder
            belongs to another run.
        RuntimeError: If the pipeline stops.

    Example:

    >>> certify_in_bulk("photos/", "runs/certificates", "model.keras", flags=["--direct_num_workers=2"])
    """
    model_path, folder = absolute(model), OutputFolder(absolute(output))
    pipeline = make_pipeline(runner, list(flags))
    settings = {"method": method, "resize": resize, "max_pixels": max_pixels, "batch_size": batch_size}
    image_shape = _image_shape(model_path, settings, is_local=is_direct(runner))
    source = find_input(input, data_dir, split, (image_shape[0], image_shape[1]) if resize else None)
    if hasattr(source, "image_shape"):
        check_image_shape((None, *source.image_shape), image_shape)
    if examples is not None:
        source = Sample(source, examples, seed)
    shards = numbered(source.pieces(shard_size))
    if not shards:
        raise ValueError(f"--input {input} holds no image.")
    # Not the threads: rounding may differ with them, as from one machine to the next, and the radii are proved for any.
    is_first = folder.begin(manifest_of(source, shards, {**settings, "model_sha256": sha256_of(model_path)}))
    finished = folder.finished(shards)
    if finished:
        say(f"{len(finished)} of {len(shards)} shards are finished already.")
    missing = sorted(set(range(len(shards))) - {shard.index for shard in finished})
    if missing:
        handler = CertifyingHandler(model_path, threads, **settings)
        certify_shards(pipeline, [shards[index] for index in missing], source, handler, folder)
        supervision = supervised() if is_direct(runner) else contextlib.nullcontext()
        with _environment(thread_variables(threads)), watching(folder, shards), supervision, _tidied(folder, is_first):
            run_pipeline(pipeline)
    return summarize(folder, shards)


def run_pipeline(pipeline: beam.Pipeline) -> None:
    """Runs a pipeline to its end.

    Raises:
        RuntimeError: If it stops, with one line of the reason.
    """
    try:
        pipeline.run().wait_until_finish()
    except Exception as error:  # whatever a runner, or code in a worker, may raise
        lines = [line.strip() for line in f"{type(error).__name__}: {error}".splitlines() if line.strip()]
        # A worker's error comes as the text of its traceback.
        reason = next(line for line in reversed(lines) if "Error" in line or line is lines[0])
        raise RuntimeError(f"the pipeline stopped: {reason} Finished shards are kept; run again to go on.") from error


def _image_shape(path: str, settings: dict[str, Any], is_local: bool) -> tuple[int, ...]:
    """Shape of the images that a model takes, `(H, W, C)`.

    Workers of this machine soon say themselves what is wrong with a model. Others are far away and may cost: for them
    it is loaded, and its bound proved, here too, before anything runs; and so it is where its files are not plain.
    """
    of_files = (settings["method"], settings["resize"], settings["max_pixels"])
    is_plain = not is_folder(path) or of_files == (None, False, None)
    shape = image_shape_of(path) if is_local and is_plain else None
    if shape is None:
        start_tensorflow()
        from clustr_keras.bulk.deployed_model import DeployedModel

        shape = DeployedModel(path, **settings).image_shape
    return shape


@contextlib.contextmanager
def _tidied(folder: OutputFolder, is_first: bool) -> Iterator[None]:
    """Removes what a run has left unfinished; of a first run that came to nothing, all."""
    try:
        yield
    except RuntimeError:
        if is_first:
            folder.withdraw()
        raise
    finally:
        folder.end()


@contextlib.contextmanager
def _environment(variables):
    """Sets environment variables, which local workers inherit."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
