"""Finished stages of an evaluation on disk, so that an interrupted one goes on where it was."""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from clustr_keras.attacks import AttackResult
from clustr_keras.attacks.attack import Attack
from clustr_keras.types import ArrayLike
from clustr_keras.whole_file import whole_file

_FIELDS = ("adversarial", "is_flipped", "class_ids", "distance")


class Stages:
    """Keeps the result of each attack in a file of its own, by what it depends on.

    Args:
        folder: Where to keep them; nowhere with `None`.
        *depends_on: Arrays and strings that every stage depends on: the fingerprint of the model, the images.

    Example:

    >>> stages = Stages("runs/evaluate/stages", images, labels)
    >>> result = stages(("pgd-20", "l_inf", 0.03), lambda: attack(images, labels, 0.03))
    """

    def __init__(self, folder: str | os.PathLike[str] | None, *depends_on: ArrayLike) -> None:
        self.folder = None if folder is None else pathlib.Path(folder)
        self.resumed = 0
        digest = hashlib.sha256()
        for part in depends_on:
            array = np.asarray(part)
            digest.update(f"{array.dtype} {array.shape} ".encode())
            digest.update(array.tobytes())
        self.key = digest.hexdigest()

    def __call__(self, settings: Sequence[object], run: Callable[[], AttackResult]) -> AttackResult:
        """The `AttackResult` of `run()`, or of an earlier run with the same settings.

        Args:
            settings: What JSON can hold, of this stage alone.
            run: Function without arguments.
        """
        if self.folder is None:
            return run()
        name = hashlib.sha256(json.dumps([self.key, settings]).encode()).hexdigest()[:24]
        path = self.folder / f"{name}.npz"
        if path.exists():
            self.resumed += 1
            with np.load(path) as saved:
                return AttackResult(*(saved[field] for field in _FIELDS))
        result = run()
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            np.savez(file, **{field: getattr(result, field) for field in _FIELDS})
        return result


def settings_of(attack: Attack) -> list[object]:
    """What an attack finds depends on, of itself: its class, name and simple attributes, for JSON."""
    simple = {name: value for name, value in vars(attack).items() if isinstance(value, bool | int | float | str | None)}
    loss = getattr(getattr(attack, "loss", None), "__name__", None)
    return [type(attack).__name__, attack.name, loss, simple]
