"""How the trials of a search compare: a table, and what was measured as a file."""

import csv
import dataclasses
import os
import pathlib
from typing import TYPE_CHECKING, Any, Self

import keras_tuner
from matplotlib.figure import Figure

from clustr_keras.tuning.leaderboard_plot import leaderboard_figure, shown
from clustr_keras.tuning.tuners import last_line

if TYPE_CHECKING:
    import rich.table

# The order of the columns, whatever order a chief was told them in; others come behind.
_METRICS = (
    "val_accuracy",
    "val_certified_accuracy",
    "val_robust_accuracy",
    "val_clean_and_certified_accuracy",
    "val_clean_and_robust_accuracy",
    "val_certified_radius",
)


@dataclasses.dataclass(frozen=True)
class Leaderboard:
    """The completed trials of a search, the best first.

    Args:
        rows: A dict for each: `trial`, its hyperparameters, its metrics.
        parameters, metrics: Names of the columns.
        failures: Trial -> why, of those that failed.

    Example:

    >>> Leaderboard.of(tuner).write("runs/tune")
    """

    rows: list[dict[str, Any]]
    parameters: tuple[str, ...]
    metrics: tuple[str, ...]
    failures: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, tuner: keras_tuner.Tuner) -> Self:
        """The leaderboard of a tuner's oracle.

        Args:
            tuner: `keras_tuner.Tuner` after its search, in the process that has the oracle: no worker's.

        Returns:
            A `Leaderboard`.
        """
        # KerasTuner fills up with those that were not completed.
        trials = tuner.oracle.get_best_trials(len(tuner.oracle.trials))
        failures = {
            trial.trial_id: last_line(trial.message or "its worker says why")
            for trial in sorted(trials, key=lambda trial: trial.trial_id)
            if trial.status == "FAILED"
        }
        trials = [trial for trial in trials if trial.status == "COMPLETED"]
        parameters = dict.fromkeys(name for trial in trials for name in trial.hyperparameters.values)
        metrics = dict.fromkeys(name for trial in trials for name in trial.metrics.metrics)
        rows = [
            {
                "trial": trial.trial_id,
                **{name: trial.hyperparameters.values.get(name) for name in parameters},
                **{name: trial.metrics.get_last_value(name) for name in metrics},
            }
            for trial in trials
        ]
        ordered = [name for name in _METRICS if name in metrics] + sorted(metrics.keys() - set(_METRICS))
        return cls(rows, tuple(name for name in parameters if not name.startswith("tuner/")), tuple(ordered), failures)

    def table(self, limit: int = 10) -> "rich.table.Table":
        """A `rich.table.Table` of the best trials."""
        import rich.table

        # With spaces, so that they wrap where the terminal is narrow.
        table = rich.table.Table("trial", *map(_in_words, self.metrics), "settings")
        for row in self.rows[:limit]:
            settings = [f"{_in_words(name)} {shown(row[name])}" for name in self.parameters if row[name] is not None]
            table.add_row(row["trial"], *(f"{row[name]:.4f}" for name in self.metrics), ", ".join(settings))
        return table

    def failures_in_words(self) -> str:
        """One line on the trials that failed, and why the last of them did; empty if there is none."""
        if not self.failures:
            return ""
        trial, reason = list(self.failures.items())[-1]
        tried = len(self.failures) + len(self.rows)
        return f"{len(self.failures)} of {tried} trials failed. Trial {trial}: {reason}"

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Writes `leaderboard.csv` and `leaderboard.png` into a folder.

        Args:
            folder: One that exists.
        """
        folder = pathlib.Path(folder)
        with (folder / "leaderboard.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["trial", *self.metrics, *self.parameters])
            writer.writeheader()
            writer.writerows(self.rows)
        if self.rows and len(self.metrics) > 1:
            self.plot().savefig(folder / "leaderboard.png", dpi=150)

    def plot(self) -> Figure:
        """A figure: parallel coordinates of the settings, and certified or robust accuracy against clean accuracy.

        Where a hypermodel measures something else, the first two metrics.
        """
        return leaderboard_figure(self.rows, self.parameters, self.metrics[:2])


def _in_words(name):
    return name.removeprefix("val_").replace("_", " ")
