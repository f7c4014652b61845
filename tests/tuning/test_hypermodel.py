import dataclasses

import keras_tuner
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustr_keras.consistency import QTRADES
from clustr_keras.data import Split, load
from clustr_keras.training import CertifiedRecipe, Recipe, paper_recipe
from clustr_keras.training.recipes import make_classifier
from clustr_keras.tuning import ClustrHyperModel

SMALL = Recipe(backbone="convnet", width=8, clusters_per_batch=4, examples_per_cluster=8, epochs=1, milestones=())


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def chosen(hypermodel, seed=None, **values):
    """Hyperparameters: the defaults, random ones, or given ones."""
    hp = keras_tuner.HyperParameters()
    hypermodel.recipe_of(hp)
    random = np.random.default_rng(seed)
    for parameter in hp.space:
        if seed is not None:
            hp.values[parameter.name] = parameter.random_sample(int(random.integers(2**31)))
    hp.values |= values
    return hp


def test_the_held_back_images_are_the_same_each_time_and_never_trained_on(digits):
    first, second = (ClustrHyperModel(digits, validation_share=0.25).dataset for _ in range(2))
    np.testing.assert_array_equal(first.test.images, second.test.images)
    assert len(first.test) == round(0.25 * len(digits.train))
    assert len(first.train) + len(first.test) == len(digits.train)
    parts = [{image.tobytes() for image in split.images} for split in (first.train, first.test)]
    assert len(parts[0] & parts[1]) < 10  # some digits are there twice
    assert parts[0] | parts[1] == {image.tobytes() for image in digits.train.images}


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1e-9])
def test_a_share_that_leaves_a_side_empty_is_refused(digits, share):
    with pytest.raises(ValueError, match=r"validation_share must lie in \(0, 1\)"):
        ClustrHyperModel(digits, validation_share=share)


def test_the_defaults_are_those_of_the_recipe(digits):
    recipe = CertifiedRecipe(margin=1.5, temperature=2.0, learning_rate=1e-3)
    hypermodel = ClustrHyperModel(digits, recipe)
    made = hypermodel.recipe_of(chosen(hypermodel))
    assert (made.margin, made.temperature, made.learning_rate) == (1.5, 2.0, 1e-3)
    assert (made.epochs, made.batch_size) == (recipe.epochs, recipe.batch_size)


@settings(max_examples=5)
@given(seed=st.integers(0, 10**6), backbone=st.sampled_from(["lipschitz_mlp", "lipschitz_convnet", "lipschitz_resnet"]))
def test_all_that_may_be_chosen_can_be_built(digits, seed, backbone):
    hypermodel = ClustrHyperModel(digits, CertifiedRecipe(backbone=backbone))
    hp = chosen(hypermodel, seed)
    model = hypermodel.build(hp)
    assert model.clusters_per_class == hp.get("clusters_per_class")
    assert model(digits.test.images[:2]).shape == (2, 10)


def test_a_trial_is_trained_and_measured_on_what_was_held_back(digits):
    hypermodel = ClustrHyperModel(digits, radius=0.3)
    hp = chosen(hypermodel, width=64, depth=2, clusters_per_class=1)
    model = hypermodel.build(hp)
    measured = hypermodel.fit(hp, model, epochs=4)
    held_back = hypermodel.dataset.test
    certificate = model.certify(held_back.images)
    assert measured["val_accuracy"] == pytest.approx(certificate.accuracy_at(0.0, held_back.labels))
    assert measured["val_certified_accuracy"] == pytest.approx(certificate.accuracy_at(0.3, held_back.labels))
    assert 0.5 < measured["val_certified_accuracy"] < measured["val_accuracy"]
    assert 0.1 < measured["val_certified_radius"] < 1.0


def test_a_trial_that_goes_on_trains_the_epochs_that_are_left(digits, monkeypatch):
    hypermodel = ClustrHyperModel(digits)
    hp = chosen(hypermodel)
    seen = []
    monkeypatch.setattr(hypermodel, "train", lambda model, data, recipe, *rest: seen.append((recipe.epochs, rest[-1])))
    monkeypatch.setattr(hypermodel, "measure", lambda model: {})
    for arguments in ({}, {"epochs": 9}, {"epochs": 9, "initial_epoch": 3}):
        hypermodel.fit(hp, None, **arguments)
    assert seen == [(hypermodel.recipe.epochs, 0), (9, 0), (9, 3)]


def test_the_same_trial_twice_begins_with_the_same_weights(digits):
    for recipe in (CertifiedRecipe(seed=7), dataclasses.replace(SMALL, seed=7)):
        hypermodel = ClustrHyperModel(digits, recipe)
        first, second = (hypermodel.build(chosen(hypermodel)).get_weights() for _ in range(2))
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a, b)


def filled(model, value):
    """Weights of a model, all floats among them of one value."""
    return [np.full_like(weight, value) if weight.dtype.kind == "f" else weight for weight in model.get_weights()]


@pytest.fixture
def pretrained(monkeypatch):
    """The data sets and recipes of trainings, which set all weights to the number of images instead."""
    seen = []

    def train(dataset, recipe, callbacks=(), model=None, initial_epoch=0):
        seen.append((len(dataset.train), recipe))
        if model is None:
            model = make_classifier(dataset, recipe)
            model.set_weights(filled(model, len(dataset.train)))
        return model

    monkeypatch.setattr("clustr_keras.tuning.hypermodel.train", train)
    monkeypatch.setattr(ClustrHyperModel, "measure", lambda self, model: float(np.mean(model.trainable_variables[0])))
    return seen


def test_trials_go_on_from_one_pretraining_and_retraining_has_one_of_its_own(digits, pretrained, tmp_path):
    recipe = dataclasses.replace(SMALL, pretraining=SMALL, alpha=3.0)
    file = tmp_path / "runs" / "pretrained.npz"
    for start in range(2):  # the second one finds the file
        hypermodel = ClustrHyperModel(digits, recipe, pretrained=file)
        held_back = len(hypermodel.dataset.train)
        hp = chosen(hypermodel)
        assert "clusters_per_class" not in hp.values
        for _ in range(2):
            assert hypermodel.fit(hp, hypermodel.build(hp)) == held_back
        assert pretrained[: 1 - start] == [(held_back, SMALL)][start:]
        assert [(count, recipe.alpha) for count, recipe in pretrained[1 - start :]] == [(held_back, 3.0)] * 2
        pretrained.clear()
    model = hypermodel.retrain(hp)
    assert [(count, recipe.alpha) for count, recipe in pretrained] == [(len(digits.train), a) for a in (12.5, 3.0)]
    assert float(np.mean(model.trainable_variables[0])) == len(digits.train)
    # Hyperband has put the weights of an earlier trial there.
    model.set_weights(filled(model, 7))
    assert hypermodel.fit(hp, model, epochs=3, initial_epoch=1) == 7


def test_a_pretraining_that_varies_belongs_to_each_trial(digits, pretrained):
    class Varied(ClustrHyperModel):
        def recipe_of(self, hp):
            stage = dataclasses.replace(self.recipe.pretraining, alpha=hp.Float("alpha", 1.0, 2.0, default=1.5))
            return dataclasses.replace(self.recipe, pretraining=stage)

    hypermodel = Varied(digits, dataclasses.replace(SMALL, pretraining=SMALL))
    for alpha in (1.25, 1.75):
        hp = chosen(hypermodel, alpha=alpha)
        hypermodel.fit(hp, hypermodel.build(hp))
    assert [recipe.alpha for _, recipe in pretrained] == [1.25, 12.5, 1.75, 12.5]


def test_no_trial_asks_for_more_clusters_than_there_are(digits):
    hypermodel = ClustrHyperModel(digits, SMALL)
    made = [hypermodel.recipe_of(chosen(hypermodel, clusters_per_class=k, clusters_per_batch=16)) for k in (1, 2)]
    assert [recipe.clusters_per_batch for recipe in made] == [10, 16]


def test_what_search_does_not_know_is_refused(digits):
    with pytest.raises(ValueError, match="got batch_size"):
        ClustrHyperModel(digits).fit(None, None, batch_size=3)


def test_retraining_takes_all_images(digits, monkeypatch):
    hypermodel = ClustrHyperModel(digits)
    seen = []
    monkeypatch.setattr(hypermodel, "train", lambda model, data, recipe, *rest: seen.append((data, recipe.epochs)))
    hypermodel.retrain(chosen(hypermodel), epochs=3)
    assert seen == [(digits, 3)]


def test_the_papers_settings_are_varied(digits):
    hypermodel = ClustrHyperModel(digits, paper_recipe("clustr-qtrades", "digits").faster())
    hp = chosen(hypermodel, alpha=3.0, clusters_per_batch=8, examples_per_cluster=16, consistency_weight=5.0)
    made = hypermodel.recipe_of(hp)
    assert (made.alpha, made.clusters_per_batch, made.examples_per_cluster) == (3.0, 8, 16)
    assert isinstance(made.consistency, QTRADES)
    assert made.consistency.weight == 5.0
    assert made.consistency.eps == hypermodel.recipe.consistency.eps
    plain = ClustrHyperModel(digits, paper_recipe("standard", "digits").faster())
    assert set(chosen(plain).values) == {"learning_rate"}


def test_a_trial_of_the_papers_training_with_its_pretraining_is_measured_under_attack(digits):
    few = dataclasses.replace(digits, train=Split(digits.train.images[:400], digits.train.labels[:400]))
    hypermodel = ClustrHyperModel(few, dataclasses.replace(SMALL, learning_rate=1e-3, pretraining=SMALL), eps=0.1)
    hp = chosen(hypermodel)
    measured = hypermodel.fit(hp, hypermodel.build(hp), epochs=1)
    assert set(measured) == {"val_accuracy", "val_robust_accuracy", "val_clean_and_robust_accuracy"}
    assert 0.0 <= measured["val_robust_accuracy"] <= measured["val_accuracy"] <= 1.0
