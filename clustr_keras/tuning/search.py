"""Tuners of KerasTuner by name, alone or as chief and workers."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import get_args

import keras_tuner

from clustr_keras.names import TunerName
from clustr_keras.tuning.hypermodel import ClustrHyperModel
from clustr_keras.tuning.manifest import manifest_of, pin
from clustr_keras.tuning.oracles import BayesianOptimization, Hyperband, RandomSearch
from clustr_keras.tuning.tuners import HyperbandTuner, Tuner, is_worker

_ORACLES = {"random": RandomSearch, "bayesian": BayesianOptimization, "hyperband": Hyperband}
_VARIABLES = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")


def make_tuner(
    name: str,
    hypermodel: ClustrHyperModel,
    objective: keras_tuner.Objective,
    max_trials: int,
    epochs: int,
    directory: str | os.PathLike[str],
    seed: int = 0,
) -> keras_tuner.Tuner:
    """A tuner that goes on where an earlier search in its folder was stopped, be that one alone or one with a chief.

    Args:
        name: `"random"`, `"bayesian"` or `"hyperband"`.
        hypermodel: `ClustrHyperModel`.
        objective: As `make_objective` gives it.
        max_trials: Integer, trials in all, those of earlier runs included. Hyperband's own schedule decides instead.
        epochs: Integer, of a trial; for Hyperband the most.
        directory: Folder of the search; a `manifest.json` there says of what.
        seed: Integer, at least 0, of the settings that are drawn. That of the trainings is the recipe's.

    Returns:
        A `keras_tuner.Tuner`.

    Raises:
        ValueError: If there is no tuner of that name, or the folder belongs to a search of something else.

    Example:

    >>> tuner = make_tuner("random", ClustrHyperModel(load("digits")), make_objective("certified"), 6, 20, "runs/tune")
    >>> tuner.search(epochs=20)
    """
    if name not in _ORACLES:
        raise ValueError(f"there is no tuner {name!r}; expected one of {', '.join(get_args(TunerName))}.")
    pin(directory, manifest_of(name, hypermodel, objective, epochs, seed))
    limit = {"max_epochs": epochs} if name == "hyperband" else {"max_trials": max_trials}
    # KerasTuner takes the seed 0 for none.
    oracle = _ORACLES[name](objective=objective, seed=seed + 1, **limit)
    kind = HyperbandTuner if name == "hyperband" else Tuner
    tuner = kind(oracle=oracle, hypermodel=hypermodel, directory=str(directory), project_name=name)
    # By itself it goes on only from a search whose process had the same name.
    if not is_worker(tuner) and (pathlib.Path(tuner.project_dir) / "oracle.json").exists():
        tuner.oracle.reload()
    return tuner


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
        ValueError: If the address is no `host:port`, the worker's name has `chief` in it, or only some of KerasTuner's
            variables are set.
    """
    if role is None:
        missing = [name for name in _VARIABLES if name not in os.environ]
        if "KERASTUNER_ORACLE_IP" in os.environ and missing:
            raise ValueError(
                f"KERASTUNER_ORACLE_IP is set and {' and '.join(missing)} not; a search takes all or none."
            )
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
