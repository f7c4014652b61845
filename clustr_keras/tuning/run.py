"""A search as the command line runs it."""

from clustr_keras.data import as_floats
from clustr_keras.progress import EpochProgress, console, progress_bar, say
from clustr_keras.training.certified import certified_recipe
from clustr_keras.training.recipes import paper_recipe
from clustr_keras.training.run import accuracy_facts
from clustr_keras.tuning.hypermodel import ClustrHyperModel
from clustr_keras.tuning.leaderboard import Leaderboard
from clustr_keras.tuning.objectives import OBJECTIVES, make_objective
from clustr_keras.tuning.search import as_part_of, make_tuner, saving_atomically


def run_search(
    dataset,
    recipe,
    output,
    tuner="random",
    objective=None,
    radius=None,
    eps=8 / 255,
    fast=False,
    max_trials=10,
    epochs=None,
    retrain=None,
    role=None,
    address=None,
    seed=0,
):
    """Searches for the settings of a recipe, shows how the trials compare, and trains the best ones again.

    Args:
        dataset: `ImageDataset`.
        recipe: `"certified"`, or a name that `paper_recipe` knows.
        output: Folder of the search, which goes on where it was stopped.
        tuner: See `make_tuner`.
        objective: See `make_objective`; certified accuracy or accuracy under attack by default.
        radius, eps: See `ClustrHyperModel`.
        fast: Whether to take a paper recipe's scale for a CPU.
        max_trials: Integer.
        epochs: Integer, of a trial; the recipe's number by default.
        retrain: The .keras file for the best settings, trained on all training images; none by default.
        role, address: See `as_part_of`.
        seed: Integer.

    Returns:
        The `Leaderboard`; `None` on a worker, whose chief has it.

    Raises:
        ValueError: If there is no such recipe, tuner or objective, or they do not go together.
    """
    if recipe == "certified":
        if fast:
            raise ValueError("the recipe certified has one scale; --fast is for the others.")
        start = certified_recipe(dataset.name, seed)
    else:
        start = paper_recipe(recipe, dataset.name, eps, seed)
        start = start.faster() if fast else start
    objective = objective or ("certified" if recipe == "certified" else "robust")
    hypermodel = ClustrHyperModel(dataset, start, radius, eps)
    goal = make_objective(objective)
    if objective != "clean" and hypermodel.is_certified == ("robust" in objective):
        known = [name for name in OBJECTIVES if name == "clean" or ("robust" in name) != hypermodel.is_certified]
        raise ValueError(f"the recipe {recipe} has no objective {objective!r}; expected one of {', '.join(known)}.")
    output.mkdir(parents=True, exist_ok=True)
    with as_part_of(role, address), saving_atomically():
        made = make_tuner(tuner, hypermodel, goal, max_trials, epochs or start.epochs, output.absolute(), seed)
        made.search(verbose=1 if console.is_terminal else 0, **({} if tuner == "hyperband" else {"epochs": epochs}))
    if role not in (None, "chief"):
        return None
    leaderboard = Leaderboard.of(made)
    leaderboard.write(output)
    console.print(leaderboard.table())
    say(f"Wrote {output / 'leaderboard.csv'}.")
    if retrain is not None:
        _retrain(hypermodel, made.get_best_hyperparameters()[0], epochs, retrain, dataset.test)
    return leaderboard


def _retrain(hypermodel, hp, epochs, path, test):
    with progress_bar("Retraining", epochs or hypermodel.recipe.epochs) as report:
        model = hypermodel.retrain(hp, epochs, [EpochProgress(report)])
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    facts = accuracy_facts(model, as_floats(test.images), test.labels, hypermodel.is_certified)
    shown = [f"clean accuracy {facts['clean_accuracy']:.1%}"]
    shown += [f"{share:.1%} certified at {radius}" for radius, share in facts.get("certified_accuracy", {}).items()]
    say(f"Saved {path}. Test: {', '.join(shown)}.")
