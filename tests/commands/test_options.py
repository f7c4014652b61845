"""One name means one thing in all commands."""

import inspect
import types
import typing

import pytest
import typer.models

from clustr_keras.cli import app
from clustr_keras.commands.options import known_data

# What an option may differ in, and why.
EXCEPTIONS = {
    "--output": {
        "help",
        "type",
        "default",
    },  # it is always what is written, which each command says; certify's may be a URL
    "--label": {"help", "type"},  # serve gives labels to versions, query asks by one
    "--version": {"help"},  # export gives a number, query asks by one
    "--data": {"type", "default"},  # export reads none unless it is asked for accuracies
    "--radius": {"help", "type"},  # many may be told of, a search goes by one
    "--examples": {"type", "default"},  # query asks about few
    "--batch-size": {"default"},  # a request is smaller than what goes through a model at a time
}


def options():
    """`(option, command, type, help, range, default)` of all options of all commands."""
    for command in app.registered_commands:
        hints = typing.get_type_hints(command.callback, include_extras=True)
        for name, parameter in inspect.signature(command.callback).parameters.items():
            if not hasattr(hints[name], "__metadata__"):
                continue  # the context
            (info,) = hints[name].__metadata__
            if isinstance(info, typer.models.OptionInfo):
                # Within Annotated the first name stands where a default would.
                named = [*(info.param_decls or ()), info.default, f"--{name.replace('_', '-')}"]
                option = next(text for text in named if str(text).startswith("--"))
                yield option, command.callback.__name__, hints[name].__origin__, info, parameter.default


@pytest.mark.parametrize("option", sorted({option for option, *_ in options()}))
def test_an_option_means_the_same_in_all_commands(option):
    found = {"help": set(), "type": set(), "range": set(), "default": set()}
    for name, _, type_, info, default in options():
        if name == option:
            found["help"].add(info.help)
            found["type"].add(str(type_))
            found["range"].add((info.min, info.max))
            found["default"].add(repr(default))
    differing = {what for what, values in found.items() if len(values) > 1}
    assert differing == EXCEPTIONS.get(option, set())
    assert None not in found["help"]


def test_every_command_answers_in_json_and_says_what_is_in_it():
    commands = {command.callback.__name__ for command in app.registered_commands}
    assert {command for option, command, *_ in options() if option == "--json"} == commands
    assert all("JSON" in command.callback.__doc__ for command in app.registered_commands)


def test_every_command_that_draws_has_a_seed():
    drawing = {command for option, command, *_ in options() if option == "--examples"} | {"demo", "train", "tune"}
    assert {command for option, command, *_ in options() if option == "--seed"} == drawing


def test_data_sets_that_lie_prepared_complete_data(tmp_path, monkeypatch):
    for name in ("downloads", "cifar10", "digits_of_mine"):
        (tmp_path / name).mkdir()
    context = types.SimpleNamespace(params={"data_dir": tmp_path})
    assert known_data(context, "") == ["digits", "cifar10", "digits_of_mine"]
    assert known_data(context, "d") == ["digits", "digits_of_mine"]
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "none"))
    assert known_data(types.SimpleNamespace(params={}), "c") == []
