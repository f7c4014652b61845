import dataclasses

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose

from clustr_keras.backbones import CIFAR10_MEAN
from clustr_keras.consistency import QTRADES, TRADES
from clustr_keras.data import ImageDataset, Split, as_floats, load
from clustr_keras.losses import MagnetLoss
from clustr_keras.training import Recipe, paper_recipe, train
from clustr_keras.training.recipes import make_classifier

FAST = {"backbone": "convnet", "width": 8, "clusters_per_batch": 6, "examples_per_cluster": 10, "learning_rate": 2e-3}


def few_digits():
    digits = load("digits")
    return dataclasses.replace(digits, train=Split(digits.train.images[:240], digits.train.labels[:240]))


def small(recipe, epochs):
    pretraining = recipe.pretraining and dataclasses.replace(recipe.pretraining, **FAST, epochs=2, milestones=())
    return dataclasses.replace(recipe, **FAST, epochs=epochs, milestones=(), pretraining=pretraining)


def test_the_defaults_are_the_papers():
    recipe = paper_recipe("clustr")
    assert (recipe.clusters_per_class, recipe.clusters_per_batch, recipe.examples_per_cluster) == (2, 12, 20)
    assert (recipe.alpha, recipe.learning_rate, recipe.epochs, recipe.milestones) == (12.5, 1e-4, 90, (30, 60))
    assert (recipe.backbone, recipe.n_init, recipe.max_iter) == ("resnet18", 1, 20)
    assert (paper_recipe("clustr", "svhn_cropped").n_init, paper_recipe("clustr", "cifar100").max_iter) == (10, 40)
    assert paper_recipe("clustr", "cifar10:3.0.2") == recipe
    qtrades = paper_recipe("clustr-qtrades")
    assert (qtrades.epochs, qtrades.consistency.weight, qtrades.pretraining) == (25, 8.0, recipe)
    assert isinstance(qtrades.consistency, QTRADES)
    assert_allclose([qtrades.consistency.eps, qtrades.consistency.step_size], [8 / 255, 10 / 255])
    published = paper_recipe("clustr-qtrades-paper")
    assert (qtrades.consistency.scores, published.consistency.scores) == ("log", "paper")
    assert dataclasses.replace(published, consistency=qtrades.consistency) == qtrades
    assert isinstance(paper_recipe("trades").consistency, TRADES)


def test_an_unknown_recipe_is_an_error_that_names_the_others():
    with pytest.raises(ValueError, match="clustr, clustr-qtrades, clustr-qtrades-paper, standard, trades"):
        paper_recipe("magic")


@pytest.mark.parametrize(("name", "epochs", "least"), [("clustr", 6, 0.9), ("standard", 4, 0.85)])
def test_digits_are_learned(name, epochs, least):
    digits = load("digits")
    model = train(digits, small(paper_recipe(name, "digits"), epochs))
    right = model.predict(as_floats(digits.test.images), verbose=0).argmax(-1) == digits.test.labels
    assert right.mean() > least


def test_qtrades_goes_on_from_clustr_and_resumes_in_either_stage(tmp_path):
    digits = few_digits()
    recipe = small(paper_recipe("clustr-qtrades", "digits", eps=0.1), 1)
    seen = []
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    model = train(digits, recipe, tmp_path, [note])
    assert isinstance(model.loss, MagnetLoss)
    assert seen == [0]
    longer = dataclasses.replace(recipe, epochs=2)
    train(digits, longer, tmp_path, [note])
    assert seen == [0, 1]


def test_where_k_means_places_the_centers_the_gradient_does_not():
    digits = load("digits")
    model = train(digits, small(paper_recipe("clustr", "digits"), 1))
    assert not model.head.trainable
    embeddings = model.embed(as_floats(digits.train.images))
    class_ids = np.asarray(model.head.nearest_cluster(embeddings)[0])
    # K-means: each center is the mean of the examples that are nearest to it among the centers of their class.
    centers = np.asarray(model.head.centers)
    own = ((embeddings[:, None] - centers[digits.train.labels]) ** 2).sum(-1).argmin(-1)
    members = (digits.train.labels == 3) & (own == 1)
    assert_allclose(embeddings[members].mean(0), centers[3, 1], atol=0.05 * np.linalg.norm(centers[3, 1]))
    assert (class_ids == digits.train.labels).mean() > 0.5


def test_the_learning_rate_falls_after_each_milestone():
    digits = few_digits()
    recipe = small(paper_recipe("standard", "digits"), 3)
    rates = []

    class Rate(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            rates.append(float(self.model.optimizer.learning_rate))

    model = train(digits, dataclasses.replace(recipe, milestones=(1, 2)), callbacks=[Rate()])
    assert_allclose(rates, [2e-3, 2e-4, 2e-5], rtol=1e-5)
    rates.clear()
    train(digits, dataclasses.replace(recipe, milestones=(1, 2)), callbacks=[Rate()], model=model, initial_epoch=1)
    assert_allclose(rates, [2e-4, 2e-5], rtol=1e-5)


def test_a_backbone_by_another_name_is_refused():
    with pytest.raises(ValueError, match="convnet, resnet18"):
        make_classifier(load("digits"), Recipe(backbone="vgg"))


def test_a_color_data_set_gets_a_network_for_color():
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (60, 16, 16, 3), dtype="uint8"), np.arange(60) % 3)
    dataset = ImageDataset("cifar10", split, split, ("a", "b", "c"))
    recipe = dataclasses.replace(Recipe(**FAST), epochs=1, clusters_per_batch=3)
    backbone = train(dataset, recipe).backbone
    assert backbone.input_shape == (None, 16, 16, 3)
    means = [layer.get_config()["mean"] for layer in backbone.layers if "mean" in layer.get_config()]
    assert_allclose(np.ravel(means), CIFAR10_MEAN, rtol=1e-6)
