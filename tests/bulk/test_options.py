import pytest

pytest.importorskip("apache_beam", reason="needs the environment of make test-beam")

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from clustr_keras.bulk.options import make_pipeline


def test_the_direct_runner_is_worker_processes():
    pipeline = make_pipeline("DirectRunner", ["--direct_num_workers", "3"])
    options = pipeline.options.view_as(DirectOptions)
    assert isinstance(pipeline.runner, FnApiRunner)
    assert (options.direct_num_workers, options.direct_running_mode) == (3, "multi_processing")


def test_a_running_mode_that_was_asked_for_stays():
    pipeline = make_pipeline("direct", ["--direct_running_mode=in_memory"])
    assert pipeline.options.view_as(DirectOptions).direct_running_mode == "in_memory"


def test_flags_of_other_runners_are_passed_on():
    pipeline = make_pipeline("FlinkRunner", ["--flink_master=host:8081", "--parallelism", "4", "--of_a_plugin=1"])
    assert type(pipeline.runner).__name__ == "FlinkRunner"
    options = pipeline.options.get_all_options(retain_unknown_options=True)
    assert (options["flink_master"], options["parallelism"], options["of_a_plugin"]) == ("host:8081", 4, "1")
    assert isinstance(pipeline.options, PipelineOptions)


@pytest.mark.parametrize(
    ("runner", "flags", "message"),
    [
        ("FlankRunner", [], "--runner must be one of"),
        ("DirectRunner", ["--direct_num_worker=2"], "knows --direct_num_worker"),
        ("DirectRunner", ["b.tfrecord", "--direct_num_workers", "2"], r"^b\.tfrecord is neither a flag nor"),
        ("DirectRunner", ["--direct_num_workers", "2", "b.tfrecord", "c"], r"^b\.tfrecord c is neither"),
        ("FlinkRunner", ["--of_a_plugin=1", "b.tfrecord"], r"^b\.tfrecord is neither.*a pattern into quotes"),
        (
            "DirectRunner",
            ["--direct_num_workers=two"],
            "Beam refuses the flags --direct_num_workers=two: .*invalid int",
        ),
    ],
)
def test_what_beam_does_not_know_is_refused(runner, flags, message):
    with pytest.raises(ValueError, match=message):
        make_pipeline(runner, flags)
