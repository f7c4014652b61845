"""Notes and progress bars of the command line."""

import contextlib
from collections.abc import Iterator
from typing import Protocol

import rich.console
import rich.progress

# On `sys.stdout` as it is at the time, so that a command may send notes elsewhere.
console = rich.console.Console()


class Report(Protocol):
    """What `progress_bar` yields."""

    def __call__(self, done: float, note: str = "") -> None:
        """Moves the bar to the amount done so far, and shows a note beside it."""


def say(text: str) -> None:
    """Prints a line as it is, brackets and all, and as long as it is: a path must stay whole."""
    console.print(text, soft_wrap=True, markup=False)


@contextlib.contextmanager
def progress_bar(description: str, total: float) -> Iterator[Report]:
    """Shows a bar with the time left; yields a function that takes the amount done so far, and a note to show."""
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("{task.fields[note]}"),
    )
    with rich.progress.Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task(description, total=total, note="")
        yield lambda done, note="": bars.update(task, completed=done, note=note)
