"""`clustr evaluate`."""

import pathlib
import typing
from collections.abc import Iterator
from typing import Annotated, get_args

import typer

from clustr_keras.commands.answering import answering, fail_unless
from clustr_keras.commands.inputs import import_modules, load_any, load_data
from clustr_keras.commands.options import (
    DataDirOption,
    DataOption,
    ExamplesOption,
    ImageSizeOption,
    ImportOption,
    JsonOption,
    ModelOption,
    SeedOption,
    output_option,
)
from clustr_keras.names import AttackName, Scores

if typing.TYPE_CHECKING:
    import rich.table

    from clustr_keras.evaluation import Evaluation


def known_attacks(incomplete: str) -> list[str]:
    """What completes `--attack`."""
    return [name for name in (*get_args(AttackName), "all") if name.startswith(incomplete)]


def evaluate(
    model: ModelOption,
    imports: ImportOption = None,
    data: DataOption = "digits",
    data_dir: DataDirOption = None,
    image_size: ImageSizeOption = None,
    examples: ExamplesOption = None,
    threat_model: Annotated[
        list[str] | None,
        typer.Option(show_default="four in each norm", help="Norm and eps, l_inf:8/255 or l_2:0.5; may be repeated."),
    ] = None,
    attack: Annotated[
        list[str] | None,  # a list of literals is nothing that Typer knows
        typer.Option(
            metavar="<name>",
            autocompletion=known_attacks,
            show_default="all but autoattack",
            help=f"One of {', '.join(get_args(AttackName))}, or all; may be repeated.",
        ),
    ] = None,
    scores: Annotated[
        Scores | None, typer.Option(show_default="distance", help="What attacks on a ClustrClassifier go through.")
    ] = None,
    subset: Annotated[int, typer.Option(min=1, help="Examples for each attack alone and the diagnostics.")] = 500,
    output: Annotated[pathlib.Path, output_option("Folder for figures and what attacks found.")] = pathlib.Path(
        "runs/evaluate"
    ),
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Attack any classifier, and look for masked gradients.

    Exit status 1 if a diagnostic fails, or a certificate.

    JSON: data, output, and results.json: model, accuracies with intervals, threat_models with attacks, diagnostics,
    broken_certificates (by their places in the data set), passed.
    """
    with answering(as_json) as answer:
        import_modules(imports)
        from clustr_keras.evaluation import ATTACKS, DEFAULT_ATTACKS, DEFAULT_THREAT_MODELS, ThreatModel
        from clustr_keras.evaluation.evaluate_run import broken_certificate_file, run_evaluation

        evaluation = run_evaluation(
            load_any(model),
            load_data(data, data_dir, image_size),
            [ThreatModel.parse(text) for text in threat_model] if threat_model else DEFAULT_THREAT_MODELS,
            tuple(ATTACKS) if "all" in (attack or ()) else attack or DEFAULT_ATTACKS,
            output,
            examples,
            scores,
            subset,
            seed,
        )
        broken = [
            f"Example {evaluation.ids[found.index]}: class {found.class_before} turns into {found.class_after} at "
            f"distance {found.distance:.6g}, inside its radius {found.certified_radius:.6g}. "
            f"Saved {broken_certificate_file(evaluation, found.index, output)}."
            for found in evaluation.broken
        ]
        wrote = f"Wrote {output / 'results.json'} and report.html. Open the report in a browser."
        figures = {"data": data, "output": output, **evaluation.as_dict()}
        answer(figures, *_tables(evaluation, figures["model"]), *broken, wrote)
    fail_unless(evaluation.passed)


def _tables(evaluation: "Evaluation", name: str) -> "Iterator[rich.table.Table]":
    import rich.table

    count = len(evaluation.labels)
    columns = ("accuracy", "share", "95 % interval")
    table = rich.table.Table(*columns, title=f"{name}: {count} test images")
    table.add_row("clean", *_share(evaluation.clean_accuracy, count))
    for radius, share in evaluation.certified_accuracy.items():
        table.add_row(f"certified at {radius:.3g}", *_share(share, count))
    for radius, share in evaluation.uncertified_accuracy.items():
        table.add_row(f"in real arithmetic, not certified, at {radius:.3g}", *_share(share, count))
    for threat in evaluation.threats:
        table.add_row(f"robust, {threat.threat_model}", *_share(threat.robust_accuracy, count))
    yield table
    subset = f"alone, on {evaluation.subset_size}"
    table = rich.table.Table(
        "threat model", "attack", "settings", "cumulative", subset, title="Attacks, one after the other"
    )
    for threat in evaluation.threats:
        for place, score in enumerate(threat.scores):
            shown = "" if place else str(threat.threat_model)
            alone = "" if score.alone is None else f"{score.alone:.1%}"
            table.add_row(shown, score.name, score.description, f"{score.cumulative:.1%}", alone)
    yield table
    table = rich.table.Table("diagnostic", "norm", "", "figures", title="Signs of masked gradients")
    for diagnostic in evaluation.diagnostics:
        figures = ", ".join(f"{figure} {share:.1%}" for figure, share in diagnostic.figures.items())
        passed = {True: "pass", False: "FAIL", None: "says nothing"}[diagnostic.passed]
        table.add_row(diagnostic.name, diagnostic.norm, passed, figures)
    if evaluation.radius is not None:
        broken = len(evaluation.broken)
        table.add_row("certificates", "l_2", "FAIL" if broken else "pass", f"{broken} of {count} broken")
    yield table


def _share(share: float, count: int) -> tuple[str, str]:
    from clustr_keras.evaluation.report import as_interval

    return f"{share:.1%}", as_interval(share, count)
