"""The report: what was measured and what was proved, as one HTML file that needs nothing else."""

import dataclasses
import decimal
import functools
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jinja2
import markupsafe
import numpy as np

from clustr_keras.attacks.arguments import check_norm
from clustr_keras.evaluation import plots
from clustr_keras.evaluation.interval import wilson_interval
from clustr_keras.types import ArrayLike, Floats, Ints
from clustr_keras.whole_file import whole_file

# The radii that the summary and the curve name.
MARKED_RADII = (0.3, 0.5)
CARDS_PER_GROUP = 6

_ARRAYS = ("images", "labels", "class_ids", "certified_radius", "adversarial", "flipped_to", "embeddings", "centers")


@dataclasses.dataclass(frozen=True)
class RobustAccuracy:
    """The share of examples that is right and that the named attack could not flip: an upper bound.

    Args:
        attack: The attack and its settings, as a reader should see them.
        norm: `"l_2"` or `"l_inf"`.
        eps: Largest norm of a perturbation, pixels in [0, 1].
        accuracy: Robust accuracy at `eps`, in [0, 1].

    Raises:
        ValueError: If the norm is another one, or a number is out of range.

    Example:
    >>> RobustAccuracy("PGD l_2, 20 steps x 5 restarts", "l_2", 0.5, 0.91)
    """

    attack: str
    norm: str
    eps: float
    accuracy: float

    def __post_init__(self) -> None:
        check_norm(self.norm)
        _require(0 <= self.eps < np.inf, f"eps must be finite and not negative; got {self.eps}.")
        _require(0 <= self.accuracy <= 1, f"accuracy must be a share in [0, 1]; got {self.accuracy}.")


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything that `report.html` shows of N test images and C classes.

    Args:
        title: Heading.
        facts: Names and values for a small table, such as `{"training": "21 s"}`.
        images: Floats in [0, 1], `[N, H, W]` or `[N, H, W, channels]` with 1 or 3 channels.
        labels: Integers `[N]`, the true classes.
        class_names: C strings.
        class_ids: Integers `[N]`, the predicted classes.
        certified_radius: Floats `[N]`, l_2, rounding slack subtracted.
        robust_accuracy: One entry per attack, norm and eps.
        adversarial: Like `images`: the l_2 attack's smallest flip of each or, where it found none, its best attempt.
        flipped_to: Integers `[N]`, the predicted classes of `adversarial`; `class_ids` where the attack failed.
        embeddings: Floats `[N, D]`.
        centers: Floats `[C, K, D]`, the cluster centers.
        audit: `{"examples": int, "attacks": [str, ...], "violations": int}`.

    Raises:
        ValueError: If N is 0, shapes do not fit together, or a value is out of range.
    """

    title: str
    facts: dict[str, str]
    images: Floats
    labels: Ints
    class_names: list[str]
    class_ids: Ints
    certified_radius: Floats
    robust_accuracy: list[RobustAccuracy]
    adversarial: Floats
    flipped_to: Ints
    embeddings: Floats
    centers: Floats
    audit: dict[str, Any]

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            object.__setattr__(self, name, np.asarray(getattr(self, name)))
        images, classes, count = self.images, len(self.class_names), len(np.atleast_1d(self.images))
        _require(
            images.size > 0 and (images.ndim == 3 or (images.ndim == 4 and images.shape[-1] in (1, 3))),
            f"images must be [N, H, W] or [N, H, W, 1 or 3] with N >= 1; got shape {images.shape}.",
        )
        # Letters stand for sizes that cannot be told, and are equal to none.
        dimension = self.embeddings.shape[1] if self.embeddings.ndim == 2 else "D"
        clusters = self.centers.shape[1] if self.centers.ndim == 3 else "K"
        shapes = {
            "adversarial": images.shape,
            **dict.fromkeys(("labels", "class_ids", "certified_radius", "flipped_to"), (count,)),
            "embeddings": (count, dimension),
            "centers": (classes, clusters, dimension),
        }
        for name, shape in shapes.items():
            got, wanted = getattr(self, name).shape, f"{shape} for {count} images and {classes} classes"
            _require(got == shape and 0 not in got, f"{name} must have shape {wanted}; got {got}.")
        for name in ("images", "adversarial"):
            low, high = getattr(self, name).min(), getattr(self, name).max()
            _require(0 <= low <= high <= 1, f"{name} must lie in [0, 1]; got values from {low} to {high}.")
        for name in ("labels", "class_ids", "flipped_to"):
            values = getattr(self, name)
            _require(values.dtype.kind in "iu", f"{name} must be integers; got {values.dtype}.")
            rule = f"{name} must lie in 0..{classes - 1} for {classes} class_names"
            _require_each((values >= 0) & (values < classes), values, rule)
        _require_radii(self.certified_radius)
        finite = np.isfinite(self.embeddings).all() and np.isfinite(self.centers).all()
        _require(finite, "embeddings and centers must be finite; got NaN or infinity.")
        keys = {"examples", "attacks", "violations"}
        _require(keys <= set(self.audit), f"audit must have the keys {sorted(keys)}; got {sorted(self.audit)}.")


def certified_accuracy_curve(
    labels: ArrayLike, class_ids: ArrayLike, certified_radius: ArrayLike, radii: ArrayLike
) -> Floats:
    """Certified accuracy: the share of examples that are right and whose certified radius is at least r.

    Args:
        labels: Integers `[N]`, the true classes.
        class_ids: Integers `[N]`, the predicted classes.
        certified_radius: Floats `[N]`. That of a wrong prediction counts for nothing.
        radii: Floats of any shape.

    Returns:
        Floats in the shape of `radii`.

    Raises:
        ValueError: If the lengths differ, N is 0, or a certified radius is negative or not finite.

    Example:
    >>> certified_accuracy_curve([0, 1, 1, 0], [0, 1, 1, 1], [0.2, 0.4, 0.6, 0.9], [0.0, 0.4, 0.7])
    array([0.75, 0.5 , 0.  ])
    """
    labels, class_ids, radius = np.asarray(labels), np.asarray(class_ids), np.asarray(certified_radius, np.float64)
    _require(
        labels.ndim == 1 and len(labels) > 0 and labels.shape == class_ids.shape == radius.shape,
        "labels, class_ids and certified_radius must have one shape [N] with N >= 1; "
        f"got {labels.shape}, {class_ids.shape} and {radius.shape}.",
    )
    _require_radii(radius)
    proved = np.sort(radius[labels == class_ids])
    return (len(proved) - np.searchsorted(proved, np.asarray(radii, np.float64), side="left")) / len(labels)


def write_report(report: Report, path: pathlib.Path) -> None:
    """Writes a report as one self-contained HTML file, atomically.

    Args:
        report: What to show.
        path: Where to; folders are made, and a file that is there is replaced when the new one is complete.

    Example:
    >>> report = Report(title="Digits", facts={"training": "21 s"}, images=images, ...)
    >>> write_report(report, pathlib.Path("runs/demo/report.html"))
    """
    write_page("report.html.jinja", _contents(report), path)


def write_page(template: str, contents: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Fills a template of this folder and writes the page atomically.

    Args:
        template: Name of the template.
        contents: Dict, its variables.
        path: Where to; folders are made, and a file that is there is replaced when the new one is complete.
    """
    # All text is escaped; only what plots drew goes in as it is.
    folder = jinja2.FileSystemLoader(pathlib.Path(__file__).parent)
    templates = jinja2.Environment(loader=folder, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    templates.filters.update(
        floor=_floor, norms=_norms, percent=lambda share: f"{100 * share:.1f}\N{NO-BREAK SPACE}%", interval=as_interval
    )
    text = templates.get_template(template).render(contents)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write_text(text, encoding="utf-8")


def _contents(report):
    is_right, is_flipped = report.labels == report.class_ids, report.flipped_to != report.class_ids
    predictions = (report.labels, report.class_ids, report.certified_radius)
    certified_accuracy = functools.partial(certified_accuracy_curve, *predictions)
    difference = report.adversarial.astype(np.float64) - report.images.astype(np.float64)
    norms = np.linalg.norm(difference.reshape(len(difference), -1), axis=1)
    drops = np.unique(np.append(0.0, report.certified_radius[is_right].astype(np.float64)))
    marked = [(radius, float(certified_accuracy(radius))) for radius in MARKED_RADII]
    attacks = [
        # The certificate is about l_2: at an eps in another norm there is no certified accuracy to show.
        (entry, float(certified_accuracy(entry.eps)) if entry.norm == "l_2" else None)
        for entry in report.robust_accuracy
    ]
    points = [(entry.eps, entry.accuracy, certified) for entry, certified in attacks if certified is not None]
    space = (report.embeddings, report.centers, report.labels)
    map_svg, map_variance = plots.embedding_map(*space, is_right, report.class_names)
    return {
        "report": report,
        "is_right": is_right,
        "is_flipped": is_flipped,
        "difference": difference,
        "norms": norms,
        "marked": marked,
        "attacks": attacks,
        # No success of an attack may lie inside a certified radius, whoever ran it.
        "broken": np.flatnonzero(is_flipped & (norms < report.certified_radius)).tolist(),
        "curve": markupsafe.Markup(plots.certified_accuracy_plot(drops, certified_accuracy(drops), points, marked)),
        "map": markupsafe.Markup(map_svg),
        "map_variance": map_variance,
        "histogram": markupsafe.Markup(plots.radius_histogram(report.certified_radius, is_right)),
        "gallery": _gallery(report.certified_radius, is_right),
        "plots": plots,
    }


def _gallery(radius, is_right):
    """Chooses the images to show; none comes twice."""
    order, few = np.argsort(radius, kind="stable"), CARDS_PER_GROUP
    right, wrong = order[is_right[order]], order[~is_right[order]]
    start = max(few, (len(right) - few) // 2)
    typical, safest = right[start : min(start + few, len(right) - few)], right[few:][-few:][::-1]
    return [
        ("Hardest", "right, with the smallest certified radii", right[:few]),
        ("Typical", "right, with certified radii around the median", typical),
        ("Safest", "right, with the largest certified radii", safest),
        ("Misclassified", "largest certified radii first: proved not to change, and wrong", wrong[::-1][:few]),
    ]


def _floor(radius):
    """Writes a certified radius rounded down: it may only be understated."""
    return str(decimal.Decimal(str(float(radius))).quantize(decimal.Decimal("0.0001"), decimal.ROUND_FLOOR))


def as_interval(share: float, count: int) -> str:
    """Wilson's 95 % interval of a share of a sample, in words."""
    low, high = wilson_interval(share, count)
    return f"{100 * low:.1f} to {100 * high:.1f}\N{NO-BREAK SPACE}%"


def _norms(text):
    """Escapes text, and sets l_2 and l_inf as a mathematician would."""
    text = re.sub(r"\bl_(2|inf)\b", r"<i>l</i><sub>\1</sub>", str(markupsafe.escape(text)))
    return markupsafe.Markup(text.replace("<sub>inf<", "<sub>∞<"))


def _require_radii(radius):
    _require_each(np.isfinite(radius) & (radius >= 0), radius, "certified_radius must be finite and not negative")


def _require_each(fits, values, rule):
    if not fits.all():
        raise ValueError(f"{rule}; got {values[fits.argmin()]} at index {fits.argmin()}.")


def _require(condition, message):
    if not condition:
        raise ValueError(message)
