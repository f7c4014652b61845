"""What may be chosen is what there is."""

import re
from typing import get_args

import pytest

from clustr_keras import names
from clustr_keras.certification import METHODS
from clustr_keras.evaluation import ATTACKS
from clustr_keras.evaluation.target import SCORES
from clustr_keras.training import paper_recipe
from clustr_keras.tuning import OBJECTIVES, make_tuner


def test_recipes():
    with pytest.raises(ValueError, match="no recipe") as refused:
        paper_recipe("magic")
    known = re.search("one of (.*)[.]$", str(refused.value))[1].split(", ")
    assert set(get_args(names.RecipeName)) == set(known) == {"certified", *get_args(names.PaperRecipe)}
    assert all(paper_recipe(name) for name in get_args(names.PaperRecipe))


def test_attacks_in_their_order():
    assert get_args(names.AttackName) == tuple(ATTACKS)


def test_methods_and_scores():
    assert get_args(names.Method) == METHODS == (*get_args(names.CertifiedMethod), "soft")
    assert get_args(names.Scores) == SCORES


def test_objectives_and_tuners(tmp_path):
    assert get_args(names.ObjectiveName) == tuple(OBJECTIVES)
    with pytest.raises(ValueError, match=", ".join(get_args(names.TunerName))):
        make_tuner("grid", None, None, 1, 1, tmp_path)
