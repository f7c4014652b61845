"""How the trials of a search compare: a table, and a picture."""

import csv
import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any, Self

import keras_tuner
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from clustr_keras.types import Floats, Ints

if TYPE_CHECKING:
    import rich.table


@dataclasses.dataclass(frozen=True)
class Leaderboard:
    """The finished trials of a search, the best first.

    Args:
        rows: A dict for each: `trial`, its hyperparameters, its metrics.
        parameters, metrics: Names of the columns.

    Example:

    >>> Leaderboard.of(tuner).write("runs/tune")
    """

    rows: list[dict[str, Any]]
    parameters: tuple[str, ...]
    metrics: tuple[str, ...]

    @classmethod
    def of(cls, tuner: keras_tuner.Tuner) -> Self:
        """The leaderboard of a tuner's oracle.

        Args:
            tuner: `keras_tuner.Tuner` after its search.

        Returns:
            A `Leaderboard`.
        """
        trials = tuner.oracle.get_best_trials(len(tuner.oracle.trials))
        parameters = tuple(dict.fromkeys(name for trial in trials for name in trial.hyperparameters.values))
        parameters = tuple(name for name in parameters if not name.startswith("tuner/"))
        metrics = tuple(dict.fromkeys(name for trial in trials for name in trial.metrics.metrics))
        rows = [
            {
                "trial": trial.trial_id,
                **{name: trial.hyperparameters.values.get(name) for name in parameters},
                **{name: trial.metrics.get_last_value(name) for name in metrics},
            }
            for trial in trials
        ]
        return cls(rows, parameters, metrics)

    def table(self, limit: int = 10) -> "rich.table.Table":
        """A `rich.table.Table` of the best trials."""
        import rich.table

        # With spaces, so that they wrap where the terminal is narrow.
        table = rich.table.Table("trial", *map(_in_words, self.metrics), "settings")
        for row in self.rows[:limit]:
            settings = [f"{_in_words(name)} {row[name]:.4g}" for name in self.parameters if row[name] is not None]
            table.add_row(row["trial"], *(f"{row[name]:.4f}" for name in self.metrics), ", ".join(settings))
        return table

    def write(self, folder: pathlib.Path) -> None:
        """Writes `leaderboard.csv` and `leaderboard.png` into a folder.

        Args:
            folder: `pathlib.Path` that exists.
        """
        with (folder / "leaderboard.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["trial", *self.metrics, *self.parameters])
            writer.writeheader()
            writer.writerows(self.rows)
        if self.rows and len(self.metrics) > 1:
            self.plot().savefig(folder / "leaderboard.png", dpi=150)

    def plot(self) -> Figure:
        """A figure: parallel coordinates of the settings, and the second metric against the first with its front."""
        figure = Figure(figsize=(12, 4.5), layout="constrained")
        parallel, plane = figure.subplots(1, 2, width_ratios=(2, 1))
        clean, proved = (np.array([row[name] for row in self.rows], float) for name in self.metrics[:2])
        colors = matplotlib.colormaps["viridis"]((proved - proved.min()) / max(np.ptp(proved), 1e-9))
        axes = [*self.parameters, *self.metrics[:2]]
        heights = np.stack([_scaled([row[name] for row in self.rows]) for name in axes], axis=-1)
        # The best ones are drawn last, on top.
        for line, color in reversed(list(zip(heights, colors, strict=True))):
            parallel.plot(range(len(axes)), line, color=color, alpha=0.8)
        for position, name in enumerate(axes):
            values = [row[name] for row in self.rows if row[name] is not None]
            parallel.axvline(position, color="0.8", lw=0.8, zorder=0)
            parallel.annotate(f"{max(values):.3g}", (position, 1.03), ha="center", size="small")
            parallel.annotate(f"{min(values):.3g}", (position, -0.07), ha="center", size="small")
        parallel.set(ylim=(-0.12, 1.1), yticks=[])
        parallel.set_xticks(range(len(axes)), axes, rotation=30, ha="right")
        for side in ("left", "right", "top", "bottom"):
            parallel.spines[side].set_visible(False)
        front = pareto_front(clean, proved)
        plane.scatter(clean, proved, c=colors)
        plane.step(clean[front], proved[front], where="pre", color="0.4", lw=1, label="Pareto front")
        plane.set(xlabel=self.metrics[0], ylabel=self.metrics[1])
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


def _in_words(name):
    return name.removeprefix("val_").replace("_", " ")


def _scaled(values):
    """Into [0, 1], on a logarithmic scale where they span more than a factor of 10; 0.5 where they are all the same."""
    values = np.array([np.nan if value is None else value for value in values], float)
    if np.nanmin(values) > 0 and np.nanmax(values) > 10 * np.nanmin(values):
        values = np.log(values)
    span = np.nanmax(values) - np.nanmin(values)
    return np.full(len(values), 0.5) if span == 0 else (values - np.nanmin(values)) / span
