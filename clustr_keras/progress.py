"""Progress bars of the command line."""

import contextlib

import keras
import rich.console
import rich.progress

console = rich.console.Console()


def say(text):
    """Prints a line, as long as it is: a path must stay whole."""
    console.print(text, soft_wrap=True)


@contextlib.contextmanager
def progress_bar(description, total):
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


class EpochProgress(keras.callbacks.Callback):
    """Reports each finished epoch, with its accuracies, to the function that `progress_bar` yields."""

    def __init__(self, report):
        super().__init__()
        self.report = report

    def on_epoch_end(self, epoch, logs=None):
        """Moves the bar by one epoch."""
        shown = [f"{name} {value:.3f}" for name, value in (logs or {}).items() if "accuracy" in name]
        self.report(epoch + 1, ", ".join(shown))
