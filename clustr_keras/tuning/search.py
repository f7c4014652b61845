"""Tuners of KerasTuner by name, alone or as chief and workers."""

import contextlib
import os
from collections.abc import Iterator
from typing import get_args

import keras_tuner

from clustr_keras.names import TunerName

_VARIABLES = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")


def make_tuner(
    name: str,
    hypermodel: keras_tuner.HyperModel,
    objective: keras_tuner.Objective,
    max_trials: int,
    epochs: int,
    directory: str | os.PathLike[str],
    seed: int = 0,
) -> keras_tuner.Tuner:
    """A tuner that goes on where an earlier search in its folder was stopped.

    Args:
        name: `"random"`, `"bayesian"` or `"hyperband"`.
        hypermodel: `ClustrHyperModel`.
        objective: As `make_objective` gives it.
        max_trials: Integer, trials in all, those of earlier runs included. Hyperband's own schedule decides instead.
        epochs: Integer, of a trial; for Hyperband the most.
        directory: Folder of the search.
        seed: Integer.

    Returns:
        A `keras_tuner.Tuner`.

    Raises:
        ValueError: If there is no tuner of that name.

    Example:

    >>> tuner = make_tuner("random", ClustrHyperModel(load("digits")), make_objective("certified"), 6, 20, "runs/tune")
    >>> tuner.search(epochs=20)
    """
    # KerasTuner takes 0 for no seed, and draws one.
    common = {"objective": objective, "directory": str(directory), "project_name": name, "seed": seed + 1}
    if name == "random":
        return keras_tuner.RandomSearch(hypermodel, max_trials=max_trials, **common)
    if name == "bayesian":
        return keras_tuner.BayesianOptimization(hypermodel, max_trials=max_trials, **common)
    if name == "hyperband":
        return keras_tuner.Hyperband(hypermodel, max_epochs=epochs, **common)
    raise ValueError(f"there is no tuner {name!r}; expected one of {', '.join(get_args(TunerName))}.")


@contextlib.contextmanager
def saving_atomically() -> Iterator[None]:
    """Lets KerasTuner, within the block, write its state beside the old one and then take its place.

    By itself it writes in place, and a search that was killed meanwhile could not read it again.
    """
    stateful = keras_tuner.Oracle.__mro__[1]
    in_place = stateful.save

    def save(self, fname):
        text = in_place(self, f"{fname}.tmp")
        os.replace(f"{fname}.tmp", fname)
        return text

    stateful.save = save
    try:
        yield
    finally:
        stateful.save = in_place


@contextlib.contextmanager
def as_part_of(role: str | None, address: str | None) -> Iterator[None]:
    """Makes tuners, within the block, parts of a distributed search.

    Args:
        role: `"chief"`, which hands out the trials and runs none; a worker's name, which no other worker has; or `None`
            for a search in this process alone, unless KerasTuner's environment variables say otherwise.
        address: `host:port` of the chief.

    Raises:
        ValueError: If the address is no `host:port`, or the worker's name has `chief` in it.
    """
    if role is None:
        yield
        return
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"the chief's address must be host:port; got {address!r}.")
    if role != "chief" and "chief" in role:
        raise ValueError(f"the name of a worker must not contain 'chief'; got {role!r}.")
    before = {name: os.environ.get(name) for name in _VARIABLES}
    os.environ.update(zip(_VARIABLES, (role, host, port), strict=True))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
