"""Beam's options and runners, as the command line names them."""

import argparse
import contextlib
import io
import itertools

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.portability.portable_runner import JobServiceHandle

_DIRECT = ("direct", "directrunner")


def is_direct(runner: str) -> bool:
    """Whether a name stands for the runner of this machine."""
    return runner.lower() in _DIRECT


def make_pipeline(runner: str, flags: list[str]) -> beam.Pipeline:
    """A pipeline for a runner, with Beam's own flags.

    `DirectRunner` is run as worker processes of this machine, `--direct_num_workers` of them. Beam itself might take
    Prism for it, which has to be downloaded and knows nothing of that flag.

    Args:
        runner: Name that Beam knows, such as `DirectRunner`, `FlinkRunner`, `SparkRunner`, `DataflowRunner`.
        flags: List of strings such as `--direct_num_workers=2`.

    Returns:
        `beam.Pipeline`.

    Raises:
        ValueError: If Beam knows no such runner, or `DirectRunner` no such flag, or if something is neither a flag nor
            the value of one.
    """
    options = _parsed(flags)
    _refuse_stray_words(options, flags)
    if not is_direct(runner):
        _refuse_unknown_runner(runner)
        options.view_as(StandardOptions).runner = runner
        return beam.Pipeline(options=options)
    _refuse_unknown_flags(options)
    if not any(flag.startswith("--direct_running_mode") for flag in flags):
        options.view_as(DirectOptions).direct_running_mode = "multi_processing"
    return beam.Pipeline(runner=_direct_runner(options), options=options)


def _parsed(flags):
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            options = PipelineOptions(flags)
            options.get_all_options()
    except SystemExit as error:  # argparse's way to refuse
        reason = (printed.getvalue().strip().splitlines() or ["no reason given"])[-1]
        raise ValueError(f"Beam refuses the flags {' '.join(flags)}: {reason}") from error
    return options


def _refuse_stray_words(options: PipelineOptions, flags: list[str]) -> None:
    """Beam would pass over them, such as the second file of a pattern that the shell has written out."""
    parsers: list[argparse.ArgumentParser] = []
    options.get_all_options(add_extra_args_fn=parsers.append)
    _, unknown = parsers[0].parse_known_args(flags)
    stray = [
        word
        for before, word in itertools.pairwise(["", *unknown])
        # The value of a flag that only another runner knows comes after it.
        if not word.startswith("-") and (not before.startswith("--") or "=" in before)
    ]
    if stray:
        raise ValueError(
            f"{' '.join(stray)} is neither a flag nor the value of one. --input takes one name: put a pattern into "
            "quotes, so that the shell does not write it out."
        )


def _refuse_unknown_runner(runner):
    known = StandardOptions.KNOWN_RUNNER_NAMES
    if "." not in runner and runner.lower().removesuffix("runner") not in {
        name.lower().removesuffix("runner") for name in known
    }:
        raise ValueError(f"--runner must be one of {', '.join(known)}, or the path of a class; got {runner}.")


def _refuse_unknown_flags(options):
    """Other runners may know flags that this machine does not; this one's own are all known."""
    unknown = set(options.get_all_options(retain_unknown_options=True)) - set(options.get_all_options())
    if unknown:
        shown = ", ".join(f"--{name}" for name in sorted(unknown))
        raise ValueError(f"neither clustr certify nor Beam knows {shown}. See clustr certify --help for its options.")


def _direct_runner(options):
    """Beam's runner of local worker processes, which hands them the pipeline's options."""
    encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
    provision = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
    return fn_runner.FnApiRunner(provision_info=fn_runner.ExtendedProvisionInfo(provision))
