"""How a command answers: figures for other programs, or what people read."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, Protocol

import typer


class Answer(Protocol):
    """Prints the answer of a command."""

    def __call__(self, figures: dict[str, Any], *shown: Any, indent: int | None = 2) -> None:
        """Figures are for `--json`, with that indent; what else is shown, for people."""


@contextlib.contextmanager
def answering(as_json: bool) -> Iterator[Answer]:
    """Runs a command that may have to answer in JSON: whatever else it prints goes to stderr then.

    Args:
        as_json: Whether `--json` was given.

    Yields:
        Function that prints the answer: the figures as one JSON document to stdout, or else what is shown to people,
        lines and what `rich` can print.

    Example:

    >>> with answering(as_json) as answer:
    ...     accuracy = measure()
    ...     answer({"accuracy": accuracy}, f"The accuracy is {accuracy:.1%}.")
    """
    stdout = sys.stdout
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():

        def answer(figures: dict[str, Any], *shown: Any, indent: int | None = 2) -> None:
            if as_json:
                from clustr_keras.results_file import as_json as to_json

                print(to_json(figures, indent), file=stdout, flush=True)
                return
            from clustr_keras.progress import console, say

            for part in shown:
                if isinstance(part, str):
                    say(part)
                else:
                    console.print(part)

        yield answer


def fail_unless(passed: bool) -> None:
    """Ends a command with exit status 1 if what it looked at did not hold."""
    if not passed:
        raise typer.Exit(1)
