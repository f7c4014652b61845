"""An evaluation as the command line runs it: progress, tables, figures and counterexamples on disk."""

import csv

import numpy as np
import rich.table

from clustr_keras.data import as_floats
from clustr_keras.evaluation.evaluate import evaluate
from clustr_keras.evaluation.evaluation_report import write_evaluation
from clustr_keras.evaluation.report import as_interval
from clustr_keras.evaluation.results_file import write_json
from clustr_keras.evaluation.suite import attack_suite
from clustr_keras.evaluation.surrogate import train_surrogate
from clustr_keras.evaluation.target import as_target
from clustr_keras.progress import console, progress_bar, say

# Images that the surrogate learns from.
_SURROGATE_IMAGES = 10_000
# Attacks of the diagnostics in one norm, and of the look at certificates.
_DIAGNOSTIC_STAGES = 12
_CERTIFICATE_STAGES = 3


def run_evaluation(model, dataset, threat_models, attacks, output, examples=None, scores=None, subset=500, seed=0):
    """Evaluates a model on a data set, shows the outcome and writes it down.

    Args:
        model: What `as_target` takes.
        dataset: `ImageDataset`: test images to attack, and training images for the surrogate to learn from.
        threat_models: `ThreatModel`s.
        attacks: Names of attacks.
        output: Folder for `results.json`, `report.html`, `examples.csv` and `broken-certificate-<id>.npz`; and for
            `stages/`, from which an interrupted evaluation goes on.
        examples: Integer, size of a random sample of the test images; all by default.
        scores: Of a `ClustrClassifier`, see `as_target`.
        subset, seed: Integers, see `evaluate`.

    Returns:
        The `Evaluation`.

    Raises:
        ValueError: See `evaluate`.
    """
    target = as_target(model, scores)
    rows = np.random.default_rng(seed).permutation(len(dataset.test))[:examples]
    images, labels = as_floats(dataset.test.images[rows]), dataset.test.labels[rows]
    stages = sum(
        len(attack_suite(target, norm, attacks)) * sum(threat.norm == norm for threat in threat_models)
        + _DIAGNOSTIC_STAGES
        for norm in {threat.norm for threat in threat_models}
    )
    if target.certify is not None:
        stages += _CERTIFICATE_STAGES
    if target.fingerprint is None:
        say("This model cannot be told from others by its configuration, so that nothing is kept for a next run.")
    say("Training a surrogate on the model's answers, for attacks that are carried over.")
    surrogate = train_surrogate(target, as_floats(dataset.train.images[:_SURROGATE_IMAGES]), seed=seed)
    over = [0]
    with progress_bar("Attacks", stages) as report:

        def before_stage(note):
            report(over[0], note)
            over[0] += 1

        evaluation = evaluate(
            target,
            images,
            labels,
            threat_models,
            attacks,
            subset=subset,
            surrogate=surrogate,
            folder=output / "stages",
            seed=seed,
            progress=before_stage,
            ids=rows,
        )
        report(stages)
    for table in _tables(evaluation):
        console.print(table)
    _write(evaluation, output)
    write_evaluation(evaluation, output / "report.html", {"data set": dataset.name})
    say(f"Wrote {output / 'results.json'} and report.html. Open the report in a browser.")
    return evaluation


def _tables(evaluation):
    count = len(evaluation.labels)
    columns = ("accuracy", "share", "95 % interval")
    table = rich.table.Table(*columns, title=f"{evaluation.target.name}: {count} test images")
    table.add_row("clean", *_share(evaluation.clean_accuracy, count))
    for radius, share in evaluation.certified_accuracy.items():
        table.add_row(f"certified at {radius:.3g}", *_share(share, count))
    for threat in evaluation.threats:
        table.add_row(f"robust, {threat.threat_model}", *_share(threat.robust_accuracy, count))
    yield table
    subset = f"alone, on {evaluation.subset_size}"
    columns = ("threat model", "attack", "settings", "cumulative", subset)
    table = rich.table.Table(*columns, title="Attacks, one after the other")
    for threat in evaluation.threats:
        for place, score in enumerate(threat.scores):
            shown = "" if place else str(threat.threat_model)
            alone = "" if score.alone is None else f"{score.alone:.1%}"
            table.add_row(shown, score.name, score.description, f"{score.cumulative:.1%}", alone)
    yield table
    table = rich.table.Table("diagnostic", "norm", "", "figures", title="Signs of masked gradients")
    for diagnostic in evaluation.diagnostics:
        figures = ", ".join(f"{name} {share:.1%}" for name, share in diagnostic.figures.items())
        passed = {True: "pass", False: "FAIL", None: "says nothing"}[diagnostic.passed]
        table.add_row(diagnostic.name, diagnostic.norm, passed, figures)
    if evaluation.radius is not None:
        broken = len(evaluation.broken)
        table.add_row("certificates", "l_2", "FAIL" if broken else "pass", f"{broken} of {count} broken")
    yield table


def _share(share, count):
    return f"{share:.1%}", as_interval(share, count)


def _write(evaluation, output):
    output.mkdir(parents=True, exist_ok=True)
    for old in output.glob("broken-certificate-*.npz"):
        old.unlink()
    for found in evaluation.broken:
        example = evaluation.ids[found.index]
        path = output / f"broken-certificate-{example}.npz"
        fields = {name: value for name, value in vars(found).items() if name != "index"}
        np.savez(path, image=evaluation.images[found.index], **fields)
        say(
            f"Example {example}: class {found.class_before} turns into {found.class_after} at distance "
            f"{found.distance:.6g}, inside its radius {found.certified_radius:.6g}. Saved {path}."
        )
    write_json(output / "results.json", evaluation.as_dict())
    _write_examples(evaluation, output / "examples.csv")


def _write_examples(evaluation, path):
    """A row for each example: its place in the data set, classes, radius and the smallest flips found."""
    radius = evaluation.radius if evaluation.certified_radius is None else evaluation.certified_radius
    columns = {
        "id": evaluation.ids,
        "label": evaluation.labels,
        "class_id": evaluation.class_ids,
        **({} if radius is None else {"radius": radius}),
        **{f"smallest_{norm}_flip": distance for norm, distance in evaluation.smallest_flips.items()},
    }
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
