"""An evaluation as the command line runs it: progress, figures and counterexamples on disk."""

import csv
import os
import pathlib
from collections.abc import Sequence

import keras
import numpy as np

from clustr_keras.data import ImageDataset, as_floats, random_rows
from clustr_keras.evaluation.diagnostics import Diagnostics
from clustr_keras.evaluation.evaluate import Evaluation, evaluate
from clustr_keras.evaluation.evaluation_report import write_evaluation
from clustr_keras.evaluation.suite import attack_suite
from clustr_keras.evaluation.surrogate import train_surrogate
from clustr_keras.evaluation.target import as_target
from clustr_keras.evaluation.threat_model import ThreatModel
from clustr_keras.progress import progress_bar, say
from clustr_keras.results_file import write_json

# Images that the surrogate learns from.
_SURROGATE_IMAGES = 10_000
# Attacks of the look at certificates.
_CERTIFICATE_STAGES = 3


def run_evaluation(
    model: keras.Model | str | os.PathLike[str],
    dataset: ImageDataset,
    threat_models: Sequence[ThreatModel],
    attacks: Sequence[str],
    output: pathlib.Path,
    examples: int | None = None,
    scores: str | None = None,
    subset: int = 500,
    seed: int = 0,
) -> Evaluation:
    """Evaluates a model on a data set, shows the progress and writes the outcome down.

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
    rows = random_rows(len(dataset.test), examples, seed)
    images, labels = as_floats(dataset.test.images[rows]), dataset.test.labels[rows]
    norms = {threat.norm for threat in threat_models}
    stages = sum(len(attack_suite(target, threat.norm, attacks)) for threat in threat_models)
    if target.certify is not None:
        stages += _CERTIFICATE_STAGES
    if target.fingerprint is None:
        say("This model cannot be told from others by its configuration, so that nothing is kept for a next run.")
    say("Training a surrogate on the model's answers, for attacks that are carried over.")
    surrogate = train_surrogate(target, as_floats(dataset.train.images[:_SURROGATE_IMAGES]), seed=seed)
    stages += sum(Diagnostics(target, norm, 0.0, surrogate).attack_count for norm in norms)
    over = [0]
    with progress_bar("Attacks", stages) as report:

        def before_stage(note: str) -> None:
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
    output.mkdir(parents=True, exist_ok=True)
    _write_broken(evaluation, output)
    _write_examples(evaluation, output / "examples.csv")
    write_json(output / "results.json", evaluation.as_dict())
    write_evaluation(evaluation, output / "report.html", {"data set": dataset.name})
    return evaluation


def broken_certificate_file(evaluation: Evaluation, index: int, output: pathlib.Path) -> pathlib.Path:
    """Where the flip of an example is kept that breaks its certificate."""
    return output / f"broken-certificate-{evaluation.ids[index]}.npz"


def _write_broken(evaluation: Evaluation, output: pathlib.Path) -> None:
    for old in output.glob("broken-certificate-*.npz"):
        old.unlink()
    for found in evaluation.broken:
        fields = {name: value for name, value in vars(found).items() if name != "index"}
        path = broken_certificate_file(evaluation, found.index, output)
        np.savez(path, image=evaluation.images[found.index], **fields)


def _write_examples(evaluation: Evaluation, path: pathlib.Path) -> None:
    """A row for each example: its place in the data set, classes, radius and the smallest flips found."""
    radius = evaluation.proved_radius
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
