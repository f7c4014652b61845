"""The report of an evaluation, as one HTML file that needs nothing else."""

import itertools
import os
from collections.abc import Mapping

import markupsafe
import numpy as np

from clustr_keras.evaluation import plots
from clustr_keras.evaluation.evaluate import Evaluation
from clustr_keras.evaluation.evaluation_plots import accuracy_plot, class_radii_plot
from clustr_keras.evaluation.report import certified_accuracy_curve, write_page

CARDS_PER_GROUP = 6


def write_evaluation(
    evaluation: Evaluation, path: str | os.PathLike[str], facts: Mapping[str, str] | None = None
) -> None:
    """Writes an evaluation as one self-contained HTML file, atomically.

    It shows a summary, accuracy against eps, the table of attacks, the diagnostics, where flips lead, radii by class,
    a map of the embeddings if there are any, and the hardest and safest images with what attacks made of them.

    Args:
        evaluation: `Evaluation`.
        path: Where to; folders are made.
        facts: Dict, names and values for a small table.

    Example:

    >>> write_evaluation(evaluate(model, x_test, y_test), "runs/evaluate/report.html")
    """
    write_page("evaluation.html.jinja", _contents(evaluation, facts or {}), path)


def _contents(evaluation, facts):
    threats, labels, class_ids = evaluation.threats, evaluation.labels, evaluation.class_ids
    names = list(evaluation.target.class_names) or [str(place) for place in range(evaluation.target.num_classes)]
    is_right = class_ids == labels
    by_norm = {norm: list(group) for norm, group in itertools.groupby(threats, lambda t: t.threat_model.norm)}
    hardest = max(threats, key=lambda threat: is_right.sum() - threat.is_standing.sum())
    radius = evaluation.proved_radius
    falls, order = _falls(by_norm.get("l_2") or threats, is_right)
    shown = (by_norm.get("l_2") or threats)[-1]
    map_svg, map_variance = _map(evaluation, is_right, names)
    is_certified = radius is None or evaluation.certified_radius is not None
    kind = "certified accuracy" if is_certified else "accuracy in real arithmetic"
    return {
        "evaluation": evaluation,
        "title": f"Evaluation of {evaluation.target.name}",
        "facts": {
            "test images": str(len(labels)),
            "seed": str(evaluation.seed),
            "time": f"{evaluation.seconds:.0f} s",
            **facts,
        },
        "worst": [group[-1] for group in by_norm.values()],
        "names": names,
        "accuracy_plot": markupsafe.Markup(
            accuracy_plot(_proved(evaluation, radius), _robust(evaluation, by_norm), kind)
        ),
        "hardest": hardest,
        "confusion": _confusion(hardest, is_right, class_ids, len(names)),
        "class_radii": radius is not None
        and markupsafe.Markup(class_radii_plot(np.where(is_right, radius, 0.0), labels, names)),
        "radius": radius,
        "map": map_svg and markupsafe.Markup(map_svg),
        "map_variance": map_variance,
        "shown": shown,
        "falls": falls,
        "gallery": _gallery(order, is_right, radius),
        "plots": plots,
    }


def _proved(evaluation, radius):
    """Radii and shares of the accuracy that is proved, at every radius where it drops."""
    if radius is None:
        return None
    predictions = (evaluation.labels, evaluation.class_ids, radius)
    drops = np.unique(np.append(0.0, radius[evaluation.class_ids == evaluation.labels].astype("float64")))
    return drops, certified_accuracy_curve(*predictions, drops)


def _robust(evaluation, by_norm):
    return {
        norm: [(0.0, evaluation.clean_accuracy), *((t.threat_model.eps, t.robust_accuracy) for t in group)]
        for norm, group in by_norm.items()
    }


def _confusion(threat, is_right, class_ids, classes):
    """Number of flips of right predictions from each class to each other one."""
    flipped = is_right & ~threat.is_standing
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (class_ids[flipped], threat.flipped_to[flipped]), 1)
    return counts.tolist()


def _falls(threats, is_right):
    """In words, within which threat model each image falls first; and its place in that order."""
    first = np.full(len(is_right), len(threats))
    for place in reversed(range(len(threats))):
        first[~threats[place].is_standing] = place
    words = [str(threat.threat_model) for threat in threats] + [f"none up to {threats[-1].threat_model}"]
    return [words[place] if right else "wrong already" for place, right in zip(first, is_right, strict=True)], first


def _gallery(order, is_right, radius):
    """The images to show, by when they fall and by their radii."""
    ties = np.zeros(len(order)) if radius is None else radius
    ranked = np.lexsort((ties, order))
    right, wrong = ranked[is_right[ranked]], ranked[~is_right[ranked]]
    safest = right[CARDS_PER_GROUP:][-CARDS_PER_GROUP:][::-1]
    return [
        ("Hardest", "right, and the first to fall", right[:CARDS_PER_GROUP]),
        ("Safest", "right, and the last to fall or never", safest),
        ("Misclassified", "wrong without any attack", wrong[::-1][:CARDS_PER_GROUP]),
    ]


def _map(evaluation, is_right, names):
    target = evaluation.target
    if target.embed is None or target.centers is None:
        return None, 0.0
    return plots.embedding_map(target.embed(evaluation.images), target.centers, evaluation.labels, is_right, names)
