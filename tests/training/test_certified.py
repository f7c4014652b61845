import dataclasses

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from clustr_keras.data import CropAndFlip, RandomAffine
from clustr_keras.training import CertifiedRecipe, certified_recipe, train_certified
from clustr_keras.training.certified import _schedule, borrowed_settings, fit_certified, make_certified

TINY = CertifiedRecipe(sizes={"widths": (32, 16)}, epochs=2, batch_size=64, augmentation=RandomAffine())


def weights_of(digits, recipe):
    (images, labels), _ = digits
    return train_certified(images[:400], labels[:400], "0123456789", recipe).get_weights()


def test_data_sets_get_networks_and_augmentation_of_their_own():
    for name in ("mnist", "mnist10k", "fashion_mnist:3.0.1"):
        recipe = certified_recipe(name, seed=3)
        assert recipe.backbone == "lipschitz_mlp"
        assert isinstance(recipe.augmentation, RandomAffine)
        assert recipe.seed == 3
    recipe = certified_recipe("cifar10/3.0.2", seed=3)
    assert (recipe.backbone, recipe.seed) == ("lipschitz_convnet", 3)
    assert recipe.augmentation == CropAndFlip(fill_mode="reflect")
    assert recipe.mirror_averaged
    assert certified_recipe("digits", seed=3) == CertifiedRecipe(seed=3)


@pytest.mark.parametrize(
    ("shape", "like"),
    [
        ((8, 8, 3), "digits"),
        ((28, 28, 1), "mnist"),
        ((32, 32, 3), "cifar10"),
        ((64, 48, 3), "cifar10"),
        ((30, 30, 3), "mnist"),
    ],
)
def test_other_data_sets_get_what_their_images_are_like(shape, like):
    recipe, model_of = certified_recipe("photos", 3, shape), certified_recipe(like, 3)
    assert borrowed_settings("photos:1.0.0", shape) == like
    assert borrowed_settings(f"{like}/of_them", shape) is None
    assert certified_recipe(like, 3, shape) == model_of
    if like == "cifar10":  # the mirror image of a 2 is no 2
        assert recipe.augmentation == CropAndFlip(flip=False, fill_mode="reflect")
        assert not recipe.mirror_averaged
    as_own = {"augmentation": model_of.augmentation, "mirror_averaged": model_of.mirror_averaged}
    assert dataclasses.replace(recipe, **as_own) == model_of
    assert make_certified(shape, "ab", dataclasses.replace(recipe, sizes={})).num_classes == 2
    assert certified_recipe("photos", 3) == certified_recipe("digits", 3)


def test_the_recipe_names_the_backbone(digits):
    (images, labels), _ = digits
    recipe = dataclasses.replace(TINY, backbone="lipschitz_convnet", sizes={"channels": (4,), "dense": (8,)}, epochs=1)
    model = train_certified(images[:64], labels[:64], "0123456789", recipe)
    assert model.backbone.name == "lipschitz_convnet"
    assert model.embed(images[:2]).shape == (2, 8)
    with pytest.raises(ValueError, match="lipschitz_convnet, lipschitz_mlp, lipschitz_resnet; got 'resnet18'"):
        train_certified(images, labels, "0123456789", dataclasses.replace(TINY, backbone="resnet18"))


def test_mirror_images_are_averaged_after_training(digits):
    (images, labels), _ = digits
    recipe = dataclasses.replace(TINY, clusters_per_class=2)
    plain = train_certified(images[:400], labels[:400], "abcdefghij", recipe)
    recipe = dataclasses.replace(recipe, mirror_averaged=True)
    averaged = train_certified(images[:400], labels[:400], "abcdefghij", recipe)
    some, mirrored = images[400:420], images[400:420, :, ::-1].copy()
    assert_allclose(averaged.embed(some), (plain.embed(some) + plain.embed(mirrored)) / 2, atol=1e-4)
    assert_array_equal(averaged.head.centers, plain.head.centers)
    assert (averaged.class_names, averaged.head.temperature) == (plain.class_names, plain.head.temperature)
    certificate = averaged.certify(some)
    assert (certificate.certified_radius > 0).all()
    assert_array_equal(certificate.class_ids, averaged.certify(mirrored).class_ids)
    assert averaged.evaluate(some, labels[400:420], verbose=0, return_dict=True).keys() > {"loss", "accuracy"}


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero():
    recipe = dataclasses.replace(TINY, learning_rate=0.1, warmup=0.2)
    rates = np.array([float(_schedule(recipe, 100)(step)) for step in range(101)])
    assert_allclose(rates[:21], 0.1 * np.arange(21) / 20, atol=1e-7)
    assert (np.diff(rates[20:]) < 0).all()
    assert_allclose(rates[100], 0.0, atol=1e-7)
    assert_allclose(float(_schedule(dataclasses.replace(recipe, warmup=0.0), 100)(0)), 0.1)


def test_a_training_that_goes_on_has_the_learning_rates_that_were_left(digits):
    (images, labels), _ = digits
    recipe = dataclasses.replace(TINY, augmentation=None)
    seen = []

    class Noting(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append(float(self.model.optimizer.learning_rate))

    model = make_certified(images.shape[1:], "0123456789", recipe)
    fit_certified(model, images[:128], labels[:128], recipe, [Noting()])
    whole = seen.copy()
    seen.clear()
    fit_certified(model, images[:128], labels[:128], recipe, [Noting()], initial_epoch=1)
    assert_allclose(seen, whole[2:], rtol=1e-6)
    assert 0 < seen[0] < whole[0]


def test_the_augmentation_is_applied_to_every_batch(digits):
    (images, labels), _ = digits
    seen = []

    def note(batch, rng):
        seen.append(len(batch))
        return RandomAffine()(batch, rng)

    before = images.copy()
    train_certified(images, labels, "0123456789", dataclasses.replace(TINY, augmentation=note))
    assert sum(seen) >= 2 * len(images)
    assert_array_equal(images, before)


def test_the_seed_decides(digits):
    first, again = (weights_of(digits, TINY) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert_allclose(one, other, atol=1e-5)
    other = weights_of(digits, dataclasses.replace(TINY, seed=1))
    assert any(np.abs(one - another).max() > 1e-3 for one, another in zip(first, other, strict=True))


def test_labels_out_of_range_are_an_error(digits):
    (images, labels), _ = digits
    with pytest.raises(ValueError, match="labels"):
        train_certified(images, labels + 1, "0123456789", TINY)
