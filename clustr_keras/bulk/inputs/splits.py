"""Splits of a data set by name."""

from collections.abc import Sequence


def chosen_splits(text: str | None, known: Sequence[str], name: str) -> list[str]:
    """Names of the splits in `train+test`; all of them, in their order, for `None`.

    Raises:
        ValueError: If there is no such split, or it is named twice.
    """
    if text is None:
        return list(known)
    chosen = text.split("+")
    if not set(chosen) <= set(known) or len(set(chosen)) < len(chosen):
        raise ValueError(
            f"--split must be made of the splits of {name}, which are {', '.join(known)}, joined by +; got {text!r}."
        )
    return chosen
