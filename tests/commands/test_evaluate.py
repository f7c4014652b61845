import functools
import importlib
import json

import keras
import numpy as np
import pytest

from clustr_keras.evaluation import ATTACKS, DEFAULT_ATTACKS
from clustr_keras.evaluation.diagnostics import Diagnostics

QUICK = ("--subset", 20, "--attack", "pgd-20", "--seed", 1)


@pytest.fixture(autouse=True)
def _quick_diagnostics(monkeypatch):
    quick = functools.partial(Diagnostics, steps=20, restarts=2, queries=100)
    # The package has the function by the module's name.
    monkeypatch.setattr(importlib.import_module("clustr_keras.evaluation.evaluate"), "Diagnostics", quick)


def test_evaluate_writes_its_figures_and_says_what_passed(trained, clustr_here, digits):
    balls = ("--threat-model", "l_2:0.3", "--threat-model", "l_2:0.2")  # of one norm, which is diagnosed once
    arguments = ("evaluate", "--model", "model.keras", *balls, "--output", "evaluated", *QUICK)
    code, out, err = clustr_here(*arguments, "--examples", 40, cwd=trained)
    assert (code, err) == (0, "")
    assert "0 of 40 broken" in out
    results = json.loads((trained / "evaluated" / "results.json").read_text())
    assert (results["examples"], results["subset"], results["seed"], results["passed"]) == (40, 20, 1, True)
    assert set(results["robust_accuracy"]) == {"l_2 0.2", "l_2 0.3"}
    # On 20 examples comparisons say nothing.
    assert [found["passed"] for found in results["diagnostics"]].count(True) == 4
    assert {found["passed"] for found in results["diagnostics"]} == {True, None}
    ids, labels, *_ = np.loadtxt(trained / "evaluated" / "examples.csv", delimiter=",", skiprows=1).T
    drawn = np.sort(np.random.default_rng(1).permutation(360)[:40])
    np.testing.assert_array_equal(ids, drawn)
    np.testing.assert_array_equal(labels, digits[1][1][drawn])


def test_evaluate_of_saturating_scores_exits_with_1(trained, digits, answer):
    (images, labels), _ = digits
    layers = [keras.layers.Flatten(), keras.layers.Dense(32, "relu"), keras.layers.Dense(10)]
    network = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    network.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    network.fit(images, labels, epochs=8, verbose=0)
    keras.Sequential([network, keras.layers.Rescaling(1e4), keras.layers.Softmax()]).save(trained / "masked.keras")
    ball = ("--threat-model", "l_inf:0.1")
    arguments = ("evaluate", "--model", "masked.keras", "--output", "masked", "--examples", 40, *ball, *QUICK)
    figures, code = answer(*arguments)
    assert code == 1
    passed = {found["name"]: found["passed"] for found in figures["diagnostics"]}
    assert passed["vanishing gradients"] is False
    results = json.loads((trained / "masked" / "results.json").read_text())
    assert not results["passed"]
    assert figures == {"data": "digits", "output": "masked", **results}


@pytest.mark.parametrize(
    ("asked", "run"),
    [((), DEFAULT_ATTACKS), (("--attack", "square"), ("square",)), (("--attack", "all"), tuple(ATTACKS))],
)
def test_the_attacks_are_those_asked_for(trained, clustr_here, monkeypatch, asked, run):
    seen = []

    def note(model, dataset, threat_models, attacks, *others):
        seen.append(tuple(attacks))
        raise ValueError("seen")

    monkeypatch.setattr("clustr_keras.evaluation.evaluate_run.run_evaluation", note)
    assert clustr_here("evaluate", "--model", "model.keras", *asked, cwd=trained)[0] == 2
    assert seen == [run]
