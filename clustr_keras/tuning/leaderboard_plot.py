"""A picture of trials: parallel coordinates of their settings, and one accuracy against another."""

import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from clustr_keras.types import ArrayLike, Floats, Ints


def leaderboard_figure(rows: Sequence[dict[str, Any]], parameters: Iterable[str], metrics: Sequence[str]) -> Figure:
    """Draws trials as lines over their settings and two metrics, and as points in the plane of the two.

    Args:
        rows: A dict for each trial, the best first.
        parameters: Names of the settings; one that is missing in a trial leaves a gap in its line.
        metrics: Two names: of the plane's horizontal and vertical axis.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    parallel, plane = figure.subplots(1, 2, width_ratios=(2, 1))
    first, second = (np.array([row[name] for row in rows], float) for name in metrics)
    colors = matplotlib.colormaps["viridis"]((second - second.min()) / max(np.ptp(second), 1e-9))
    _draw_lines(parallel, {name: [row[name] for row in rows] for name in (*parameters, *metrics)}, colors)
    front = pareto_front(first, second)
    plane.scatter(first, second, c=colors)
    plane.step(first[front], second[front], where="pre", color="0.4", lw=1, label="Pareto front")
    plane.set(xlabel=metrics[0], ylabel=metrics[1])
    plane.legend()
    plane.grid(alpha=0.3)
    return figure


def pareto_front(first: Floats, second: Floats) -> Ints:
    """Indices of those that no other one exceeds in both, by the first in ascending order.

    Args:
        first, second: Floats `[N]`, the larger the better.

    Returns:
        Ints.
    """
    order = np.lexsort((second, first))[::-1]  # the first descending, then the second
    best, front = -np.inf, []
    for index in order:
        if second[index] > best:
            front.append(index)
            best = second[index]
    return np.array(front[::-1], int)


def shown(value: Any) -> str:
    """A setting in a few characters."""
    return f"{value:.4g}" if _is_number(value) else str(value)


def _draw_lines(axes, columns, colors):
    placed = {name: _placed(values) for name, values in columns.items()}
    heights = np.stack([heights for heights, _ in placed.values()], axis=-1)
    # The best ones are drawn last, on top.
    for line, color in reversed(list(zip(heights, colors, strict=True))):
        axes.plot(range(len(placed)), line, color=color, alpha=0.8)
    for position, (_, marks) in enumerate(placed.values()):
        axes.axvline(position, color="0.8", lw=0.8, zorder=0)
        for height, text in marks:
            # Above, below, or beside the axis.
            at, align = {0.0: ((position, -0.07), "center"), 1.0: ((position, 1.03), "center")}.get(
                height, ((position + 0.04, height - 0.015), "left")
            )
            axes.annotate(text, at, ha=align, size="small")
    axes.set(ylim=(-0.12, 1.1), yticks=[])
    axes.set_xticks(range(len(placed)), list(placed), rotation=30, ha="right")
    for side in ("left", "right", "top", "bottom"):
        axes.spines[side].set_visible(False)


def _placed(values: Sequence[Any]) -> tuple[Floats, list[tuple[float, str]]]:
    """Heights in [0, 1] of a column's values, NaN for those that are missing, and what is written at which height."""
    known = [value for value in values if value is not None]
    if all(map(_is_number, known)):
        heights = _scaled([math.nan if value is None else value for value in values])
        return heights, [(0.0, shown(min(known))), (1.0, shown(max(known)))]
    # What is no number has a place for each value, in the order of the alphabet.
    names = sorted({str(value) for value in known})
    places = _scaled(range(len(names)))
    heights = np.array([math.nan if value is None else places[names.index(str(value))] for value in values])
    return heights, list(zip(places.tolist(), names, strict=True))


def _scaled(given: ArrayLike) -> Floats:
    """Into [0, 1], on a logarithmic scale where they span more than a factor of 10; 0.5 where they are all the same."""
    values = np.array(given, float)
    if np.nanmin(values) > 0 and np.nanmax(values) > 10 * np.nanmin(values):
        values = np.log(values)
    span = np.nanmax(values) - np.nanmin(values)
    return np.full(len(values), 0.5) if span == 0 else (values - np.nanmin(values)) / span


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
