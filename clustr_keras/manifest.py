"""What a folder holds results of: pinned by the first run, and asked of every later one."""

from typing import Any

# A whole other recipe differs in dozens of settings.
_SHOWN = 5


def check_same(found: dict[str, Any], expected: dict[str, Any], folder: object, results: str) -> None:
    """Checks that the manifest of a folder is the one of this run.

    Args:
        found: Dict, the manifest of the folder.
        expected: Dict, that of this run.
        folder: For the message.
        results: What the folder holds, such as `"Certificates"`, for the message.

    Raises:
        ValueError: If it is another one; the message says in what.

    Example:

    >>> check_same({"seed": 0}, {"seed": 1}, "runs/tune", "Trials")
    Traceback (most recent call last):
    ValueError: --output runs/tune belongs to another run, which differs in seed: 0 there, 1 now. ...
    """
    differing = [name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)]
    if differing:
        shown = [f"{name}: {found.get(name)} there, {expected.get(name)} now" for name in differing[:_SHOWN]]
        shown += [f"{len(differing) - _SHOWN} more"] if len(differing) > _SHOWN else []
        raise ValueError(
            f"--output {folder} belongs to another run, which differs in {'; '.join(shown)}. {results} would be mixed "
            "up: choose another --output, delete that folder, or run with what it was begun with."
        )
