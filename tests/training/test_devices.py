"""Training on two logical CPU devices, in a process of its own: they are made before TensorFlow starts."""

import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose

from clustr_keras.training.devices import strategy_for

PROGRAM = """
import contextlib, dataclasses, gc, pathlib, sys

gc.set_threshold(100_000, 50, 100)  # as in conftest.py
import keras
import numpy as np
import tensorflow as tf

# To optimize graphs that run a few times takes longer than it saves.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

from clustr_keras import ClustrClassifier, cli
from clustr_keras.data import CropAndFlip, ImageBatches, Split, as_floats, load
from clustr_keras.training import CertifiedRecipe, paper_recipe, train, train_certified
from clustr_keras.training.devices import scope_of, strategy_for

folder = pathlib.Path(sys.argv[1])
digits = load("digits")


def first(count):
    # The name chooses the augmentation.
    some = Split(digits.train.images[:count], digits.train.labels[:count])
    return dataclasses.replace(digits, name="cifar10", train=some)


data = first(99)  # plain batches of 24 leave three examples to the end of an epoch
tiny = {
    "backbone": "convnet", "width": 4, "clusters_per_batch": 6, "examples_per_cluster": 4, "learning_rate": 1e-3,
    "epochs": 2, "milestones": (), "pretraining": None,
}
paper = ("standard", "trades", "clustr", "clustr-qtrades", "clustr-qtrades-paper")
recipes = {name: dataclasses.replace(paper_recipe(name, eps=4 / 255), **tiny) for name in paper}
# Ten steps take long to compile. In a ball of 0.1 signs flip where gradients are rounding: on one device, weights
# moved by 1e-7 then change the curve by 1e-3.
recipes["trades"].consistency.steps = 2
certified = {"clusters_per_class": 2, "epochs": 2, "batch_size": 24, "augmentation": CropAndFlip(1)}
certified["learning_rate"] = 5e-3  # at more, steps apart by rounding part further than what is compared to
recipes["certified"] = CertifiedRecipe(sizes={"widths": (32, 16)}, **certified)


class Losses(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.seen = []

    def on_train_batch_begin(self, batch, logs=None):
        self.model.reset_metrics()

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(float(self.model.get_metrics_result()["loss"]))


def small(recipe):
    keras.utils.set_random_seed(recipe.seed)
    # No bias before the normalization: its gradient is rounding, which Adam makes steps of full length from.
    layers = [keras.layers.Conv2D(4, 3, 2, use_bias=False), keras.layers.BatchNormalization(momentum=0.9)]
    layers += [keras.layers.ReLU(), keras.layers.Flatten(), keras.layers.Dense(8)]
    return ClustrClassifier(keras.Sequential([keras.Input((8, 8, 1)), *layers]), 10, recipe.clusters_per_class)


def trained(recipe, devices, data=data, **kwargs):
    losses = Losses()
    with scope_of(strategy_for(devices)):
        if isinstance(recipe, CertifiedRecipe):
            images = as_floats(data.train.images)
            model = train_certified(images, data.train.labels, data.class_names, recipe, [losses])
        else:
            # The convnet, which takes longer to compile, once.
            model = None if recipe is recipes["standard"] else small(recipe)
            model = train(data, recipe, callbacks=[losses], model=model, **kwargs)
    return model, losses.seen


found = {}
for name, recipe in recipes.items():
    for devices in (1, "all"):
        model, losses = trained(recipe, devices)
        found[f"{name}/{devices}/losses"] = losses
        for index, variable in enumerate(model.backbone.variables + model.head.variables):
            found[f"{name}/{devices}/{index}"] = keras.ops.convert_to_numpy(variable)
        synchronized = [getattr(layer, "synchronized", False) for layer in model.backbone.layers]
        found[f"{name}/{devices}/is_synchronized"] = any(synchronized)

# Killed after half of the epochs, and resumed.
for epochs in (1, 2):
    recipe = dataclasses.replace(recipes["clustr"], epochs=epochs)
    _, found["resumed"] = trained(recipe, "all", checkpoint_dir=folder / "checkpoint")

# One of 97 examples is left to the last batch, and none of it to the second device.
_, found["one left"] = trained(dataclasses.replace(recipes["standard"], epochs=1), "all", first(97))

# The certified model, of the loop above, answers, is saved, and answers again without a strategy.
model.save(folder / "certified.keras")
found["images"] = as_floats(digits.test.images[:20])
found["radii"] = model.certify(found["images"]).certified_radius

# Batches that do not divide by two.
x, y = as_floats(data.train.images), data.train.labels
weights = np.linspace(0.0, 2.0, 31, dtype="float32")


def of_odd_sizes(model):
    model.compile(keras.optimizers.SGD(0.01))
    yield model.evaluate(x[:31], y[:31], verbose=0)  # builds
    yield model.test_on_batch(x[:33], y[:33])
    yield model.predict_on_batch(x[:5])
    yield model.train_on_batch(x[:33], y[:33], class_weight={label: float(label) for label in range(10)})
    yield model.train_on_batch(x[33:64], y[33:64], weights)
    history = model.fit(x[:65], y[:65], shuffle=False, validation_split=0.2, verbose=0).history  # 52 to train
    yield [history[key][0] for key in ("loss", "val_loss", "val_accuracy")]
    yield model.fit(x[:93], y[:93], 31, shuffle=False, verbose=0).history["loss"]


class InOrder(keras.utils.PyDataset):
    num_batches = 3

    def __getitem__(self, index):
        return x[:65][32 * index :][:32], y[:65][32 * index :][:32]


for devices in (1, "all"):
    with scope_of(strategy_for(devices)):
        model = small(recipes["standard"])
    for index, numbers in enumerate(of_odd_sizes(model)):
        found[f"odd/{devices}/{index}"] = np.asarray(numbers)
    if devices == 1:
        model.fit(x[:64], y[:64], shuffle=False, verbose=0)
    else:
        model.fit(tf.data.Dataset.from_tensor_slices((x[:65], y[:65])).batch(32), verbose=0)
    found[f"odd/{devices}/weights"] = np.concatenate([np.ravel(variable) for variable in model.trainable_variables])

refused = {
    "arrays": lambda: model.fit(x[:65], y[:65]),
    "split": lambda: model.fit(x[:60], y[:60], validation_split=0.45),
    "batches": lambda: model.fit(ImageBatches(first(97).train, 32)),
    "PyDataset": lambda: model.fit(InOrder()),
    "tf.data": lambda: model.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(1, drop_remainder=True)),
    "train_on_batch": lambda: model.train_on_batch(x[:1], y[:1]),
}
for name, training in refused.items():
    try:
        training()
    except ValueError as error:
        found[f"refused/{name}"] = str(error)

arguments = ["--recipe", "standard", "--epochs", "1", "--devices", "all", "--from", str(folder / "certified.keras")]
sys.argv = ["clustr", "train", *arguments, "--output", str(folder / "standard.keras")]
with contextlib.suppress(SystemExit):
    cli.main()
np.savez(folder / "found.npz", **found)
"""
RECIPES = ("standard", "trades", "clustr", "clustr-qtrades", "clustr-qtrades-paper", "certified")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the process left what it found, and its models."""
    folder = tmp_path_factory.mktemp("devices")
    command = [sys.executable, "-c", PROGRAM, folder]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "stderr.txt").write_text(done.stderr)
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return dict(np.load(folder / "found.npz"))


@pytest.mark.parametrize("name", RECIPES)
def test_two_devices_train_as_one_does(found, name):
    one, two = found[f"{name}/1/losses"], found[f"{name}/all/losses"]
    assert len(one) == 10
    assert len(set(one)) == 10
    assert_allclose(two, one, rtol=1e-4)
    index = 0
    while (key := f"{name}/1/{index}") in found:
        if np.isfinite(found[key]).all():
            assert_allclose(found[f"{name}/all/{index}"], found[key], rtol=1e-3, atol=1e-4, err_msg=key)
        index += 1
    assert index > 5
    assert not found[f"{name}/all/is_synchronized"]


def test_a_last_batch_that_leaves_a_device_out_is_dropped(found):
    assert len(found["one left"]) == 4


def test_a_killed_training_on_two_devices_is_resumed(found):
    assert len(found["resumed"]) == 5
    assert_allclose(found["resumed"], found["clustr/all/losses"][5:], rtol=1e-5)


def test_what_two_devices_trained_is_saved_for_one(folder, found):
    import keras

    certificate = keras.models.load_model(folder / "certified.keras").certify(found["images"])
    assert_allclose(certificate.certified_radius, found["radii"], atol=1e-5)
    assert found["radii"].max() > 0.0


def test_the_command_goes_on_from_a_file_on_all_devices(folder):
    import keras

    before, after = (keras.models.load_model(folder / f"{name}.keras") for name in ("certified", "standard"))
    assert after.optimizer.iterations == 6  # 1437 digits in batches of 240
    assert after.training_step - before.training_step == 6
    weights = zip(after.trainable_variables[:3], before.trainable_variables[:3], strict=True)
    moved = [np.abs(new.numpy() - old.numpy()).max() for new, old in weights]
    assert 1e-5 < max(moved) < 1e-2


def test_batches_of_any_size_are_what_they_are_on_one_device(found):
    names = [key.removeprefix("odd/1/") for key in found if key.startswith("odd/1/")]
    assert len(names) == 8
    for name in names:
        assert_allclose(found[f"odd/all/{name}"], found[f"odd/1/{name}"], rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_batch_of_unknown_size_that_leaves_a_device_out_is_left_out_with_a_line(folder):
    stderr = (folder / "stderr.txt").read_text()
    assert "fit leaves out a batch of size 1 which is too small for 2 devices." in stderr
    assert "ran out of data" not in stderr


@pytest.mark.parametrize("what", ["arrays", "split", "batches", "PyDataset", "tf.data", "train_on_batch"])
def test_batches_that_devices_cannot_share_are_refused(found, what):
    assert "a batch of size 1 leaves some of 2 devices without an example" in str(found[f"refused/{what}"])


def test_one_device_needs_no_strategy():
    for devices in (None, 1, "1", "all"):
        assert strategy_for(devices) is None


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ("some", "devices must be all, or a number of at least 1; got 'some'"),
        (0, "devices must be all, or a number of at least 1; got 0"),
        ("7", "devices=7 asks for more than there are: 1 of kind CPU"),
    ],
)
def test_devices_that_are_not_there_are_refused(devices, message):
    with pytest.raises(ValueError, match=message):
        strategy_for(devices)
