"""A search as the command line runs it."""

import dataclasses
import pathlib
from typing import Any

import keras_tuner

from clustr_keras.data import ImageDataset, Split, as_floats
from clustr_keras.progress import console, progress_bar
from clustr_keras.training.accuracies import accuracy_facts
from clustr_keras.training.certified import CertifiedRecipe, certified_recipe
from clustr_keras.training.epoch_progress import EpochProgress
from clustr_keras.training.recipes import PAPER_EPS, Recipe, paper_recipe
from clustr_keras.tuning.hypermodel import ClustrHyperModel
from clustr_keras.tuning.leaderboard import Leaderboard
from clustr_keras.tuning.objectives import OBJECTIVES, make_objective
from clustr_keras.tuning.search import as_part_of, make_tuner, saving_atomically
from clustr_keras.tuning.tuners import is_worker


@dataclasses.dataclass(frozen=True)
class Search:
    """What a search found.

    Args:
        leaderboard: `Leaderboard` of the trials.
        retrained: `accuracy_facts` of the model with the best settings, `None` if none was trained again.
    """

    leaderboard: Leaderboard
    retrained: dict[str, Any] | None

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "trials": self.leaderboard.rows,
            "failed": self.leaderboard.failures,
            "retrained": self.retrained,
        }


def run_search(
    dataset: ImageDataset,
    recipe: str,
    output: pathlib.Path,
    tuner: str = "random",
    objective: str | None = None,
    radius: float | None = None,
    eps: float | None = None,
    fast: bool = False,
    max_trials: int = 10,
    epochs: int | None = None,
    retrain: pathlib.Path | None = None,
    role: str | None = None,
    address: str | None = None,
    seed: int = 0,
) -> Search | None:
    """Searches for the settings of a recipe, shows how far it has come, and trains the best ones again.

    Args:
        dataset: `ImageDataset`.
        recipe: `"certified"`, or a name that `paper_recipe` knows.
        output: Folder of the search, which goes on where it was stopped; `leaderboard.csv` and its picture go there.
        tuner: See `make_tuner`.
        objective: See `make_objective`; certified accuracy or accuracy under attack by default.
        radius: Float, of the recipe certified, see `ClustrHyperModel`.
        eps: Float, of the others, see `ClustrHyperModel`; 8/255 by default.
        fast: Whether to take a paper recipe's scale for a CPU.
        max_trials: Integer.
        epochs: Integer, of a trial; the recipe's number by default.
        retrain: The .keras file for the best settings, trained on all training images; none by default.
        role, address: See `as_part_of`.
        seed: Integer.

    Returns:
        A `Search`; `None` on a worker, whose chief has it.

    Raises:
        ValueError: If there is no such recipe, tuner or objective, they do not go together, or the folder belongs to
            another search; after the search, if it was given up or no trial is left to retrain.
    """
    if (eps if recipe == "certified" else radius) is not None:
        raise ValueError("--radius is for the recipe certified, and --eps for the others.")
    eps = PAPER_EPS if eps is None else eps
    start = _start(recipe, dataset, eps, fast, seed)
    objective = objective or ("certified" if recipe == "certified" else "robust")
    hypermodel = ClustrHyperModel(dataset, start, radius, eps, pretrained=output / "pretrained.npz")
    goal = make_objective(objective)
    if objective != "clean" and hypermodel.is_certified == ("robust" in objective):
        known = [name for name in OBJECTIVES if name == "clean" or ("robust" in name) != hypermodel.is_certified]
        raise ValueError(f"the recipe {recipe} has no objective {objective!r}; expected one of {', '.join(known)}.")
    output.mkdir(parents=True, exist_ok=True)
    with as_part_of(role, address), saving_atomically():
        made = make_tuner(tuner, hypermodel, goal, max_trials, epochs or start.epochs, output.absolute(), seed)
        made.search(verbose=1 if console.is_terminal else 0, **({} if tuner == "hyperband" else {"epochs": epochs}))
    if is_worker(made):
        return None
    leaderboard = Leaderboard.of(made)
    leaderboard.write(output)
    failures, retrained = leaderboard.failures_in_words(), None
    if made.oracle.has_given_up:
        raise ValueError(
            f"the last three trials failed one after the other, and no more were begun: {failures} What was completed "
            f"is in {output / 'leaderboard.csv'}."
        )
    if retrain is not None:
        if not leaderboard.rows:
            raise ValueError(f"there is nothing to retrain, since no trial was completed: {failures}")
        retrained = _retrain(hypermodel, made.get_best_hyperparameters()[0], epochs, retrain, dataset.test)
    return Search(leaderboard, retrained)


def _start(recipe: str, dataset: ImageDataset, eps: float, fast: bool, seed: int) -> CertifiedRecipe | Recipe:
    """The settings to start from."""
    if recipe != "certified":
        start = paper_recipe(recipe, dataset.name, eps, seed)
        return start.faster() if fast else start
    if fast:
        raise ValueError("the recipe certified has one scale; --fast is for the others.")
    return certified_recipe(dataset.name, seed, dataset.image_shape)


def _retrain(
    hypermodel: ClustrHyperModel,
    hp: keras_tuner.HyperParameters,
    epochs: int | None,
    path: pathlib.Path,
    test: Split,
) -> dict[str, Any]:
    with progress_bar("Retraining", epochs or hypermodel.recipe.epochs) as report:
        model = hypermodel.retrain(hp, epochs, [EpochProgress(report)])
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    radii = hypermodel.recipe.radii if isinstance(hypermodel.recipe, CertifiedRecipe) else None
    return accuracy_facts(model, as_floats(test.images), test.labels, radii)
