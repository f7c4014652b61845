"""`clustr`: train, certify, audit, export, serve and query from the shell."""

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
import typer.core

from clustr_keras.commands.audit import audit
from clustr_keras.commands.certify import certify
from clustr_keras.commands.demo import demo
from clustr_keras.commands.doctor import doctor
from clustr_keras.commands.evaluate import evaluate
from clustr_keras.commands.export import export
from clustr_keras.commands.load_test import load_test
from clustr_keras.commands.query import query
from clustr_keras.commands.serve import serve
from clustr_keras.commands.train import train
from clustr_keras.commands.tune import tune
from clustr_keras.serving.errors import ServingError
from clustr_keras.tensorflow_start import start_tensorflow

# Of a command that was interrupted, as shells have it.
_INTERRUPTED = 130
# What Typer raises for a command line that it does not understand, whether it has Click or brings its own.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

# Without panels: the help of 11 commands has to fit a screen.
app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)


class _Command(typer.core.TyperCommand):
    """A command that starts TensorFlow first, but not before its options are known to be right."""

    def invoke(self, ctx: Any) -> Any:
        # The workers of certify --input have one each, and this process can do without.
        if ctx.params.get("source") is None:
            start_tensorflow()
        return super().invoke(ctx)


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Classifiers that prove how far an input may move before the answer changes."""
    del debug  # `main` looks for it: it is needed where an error comes from outside of a command too
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for _command in (demo, train, tune, certify, audit, evaluate, export, serve, query):
    # What certify does not know may be an option of Beam's.
    _settings = {"allow_extra_args": True, "ignore_unknown_options": True} if _command is certify else None
    app.command(cls=_Command, context_settings=_settings)(_command)
app.command("load-test", cls=_Command)(load_test)
app.command(cls=_Command)(doctor)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line: an error is one line, and exit status 2, with `--debug` its traceback as well."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        # Wherever it stands.
        status = app([word for word in given if word != "--debug"], prog_name="clustr", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        status = _INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(f"clustr: {_in_one_line(error, debug)}", file=sys.stderr)
        status = 2
    sys.exit(status or 0)


def _in_one_line(error: Exception, debug: bool) -> str:
    if isinstance(error, _UsageError):
        message = " ".join(error.format_message().split()).replace("Value error, ", "")  # type: ignore[attr-defined]
        context = getattr(error, "ctx", None)
        command = "clustr" if context is None else context.command_path
        return f"{message[:1].lower()}{message[1:].rstrip('.')}; see {command} --help"
    message = " ".join(str(error).split())
    if message and isinstance(error, ValueError | OSError | RuntimeError | ServingError):
        if isinstance(error, ServingError) and error.code == "UNAVAILABLE":
            message = (
                f"{message.rstrip('.')}. Is a server running there? clustr serve starts one, --target names another."
            )
        return message
    return f"{type(error).__name__}: {message}{'' if debug else ' (clustr --debug ... shows where)'}"
