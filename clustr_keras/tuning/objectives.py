"""What a search maximizes."""

import keras_tuner

from clustr_keras.names import ObjectiveName

# Name -> metric of a trial. The last two are means of clean accuracy and the other.
OBJECTIVES: dict[ObjectiveName, str] = {
    "certified": "val_certified_accuracy",
    "clean": "val_accuracy",
    "robust": "val_robust_accuracy",
    "clean+certified": "val_clean_and_certified_accuracy",
    "clean+robust": "val_clean_and_robust_accuracy",
}


def make_objective(name: str) -> keras_tuner.Objective:
    """An objective of KerasTuner, by name.

    Args:
        name: One of `OBJECTIVES`: `"certified"` is certified accuracy at the hypermodel's radius, `"robust"` accuracy
            under PGD, `"clean"` plain accuracy, and `"clean+certified"` the mean of two, all on the validation images.

    Returns:
        A `keras_tuner.Objective`.

    Raises:
        ValueError: If there is none of that name.

    Example:

    >>> make_objective("certified")
    Objective(name="val_certified_accuracy", direction="max")
    """
    if name not in OBJECTIVES:
        raise ValueError(f"there is no objective {name!r}; expected one of {', '.join(OBJECTIVES)}.")
    return keras_tuner.Objective(OBJECTIVES[name], "max")
