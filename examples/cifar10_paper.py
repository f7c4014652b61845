"""CIFAR-10 as in the ClusTR paper: ClusTR, then ClusTR+QTRADES, both attacked through scores that do not saturate.

Run: python examples/cifar10_paper.py [--data-dir DIR] [--output runs/cifar10_paper]; the ResNet-18 wants a GPU.
On two cores: --fast, a small network and a fifth of the epochs, or --data digits --fast --eps 0.1 for a few minutes.

It prints, after each of the two trainings, clean accuracy and accuracy under the paper's attack, and saves model.keras
in --output. The same command goes on where a stopped one was.
"""

import argparse

import keras

from clustr_keras import ClustrClassifier, MagnetLoss
from clustr_keras.backbones import CIFAR10_MEAN, CIFAR10_STD, convnet, resnet18
from clustr_keras.consistency import QTRADES
from clustr_keras.data import as_floats, default_augmentation, load, random_rows
from clustr_keras.evaluation import as_target, attack_suite
from clustr_keras.training import EpochCheckpoint, KMeansRefresh, MagnetBatches

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", default="cifar10")
parser.add_argument("--data-dir", help="folder of prepared TensorFlow Datasets")
parser.add_argument("--eps", type=float, default=8 / 255, help="l_inf radius of QTRADES and of the attack")
parser.add_argument("--fast", action="store_true", help="a small network and fewer epochs, for a CPU")
parser.add_argument("--epochs", type=int, nargs=2, metavar=("CLUSTR", "QTRADES"), help="90 25, with --fast 18 5")
parser.add_argument("--examples", type=int, default=1000, help="test images to attack")
parser.add_argument("--output", default="runs/cifar10_paper")
asked = parser.parse_args()
clustr_epochs, qtrades_epochs = asked.epochs or ((18, 5) if asked.fast else (90, 25))

keras.utils.set_random_seed(0)
data = load(asked.data, asked.data_dir)
mean, std = (CIFAR10_MEAN, CIFAR10_STD) if data.image_shape[-1] == 3 else (0.5, 0.25)
make, width, rate = (convnet, 16, 1e-3) if asked.fast else (resnet18, 64, 1e-4)
backbone = make(data.image_shape, width=width, mean=mean, std=std)
model = ClustrClassifier(backbone, data.num_classes, clusters_per_class=2, class_names=data.class_names)
model.head.trainable = False  # k-means places the centers, the gradient does not


def fit(stage, epochs, rates, consistency=None):
    """One stage, resumed where a checkpoint is found; its epochs are shared equally among the learning rates."""
    batches = MagnetBatches(
        data.train.images,
        data.train.labels,
        data.num_classes,
        clusters_per_class=2,
        clusters_per_batch=12,
        examples_per_cluster=20,
        augmentation=default_augmentation(data.name),
    )
    steps = [part * epochs * len(batches) // len(rates) - 1 for part in range(1, len(rates))]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(steps, rates) if steps else rates[0]
    model.compile(keras.optimizers.Adam(schedule), MagnetLoss(alpha=12.5), consistency=consistency)
    checkpoint = EpochCheckpoint(f"{asked.output}/{stage}", batches)
    first = checkpoint.restore(model)
    if first < epochs:
        callbacks = [KMeansRefresh(batches), checkpoint]
        model.fit(batches, initial_epoch=first, epochs=epochs, callbacks=callbacks, verbose=2)


def report(name):
    """Clean accuracy, and accuracy under PGD with 20 steps and 10 restarts on the log-space class scores."""
    rows = random_rows(len(data.test), asked.examples)
    images, labels = as_floats(data.test.images[rows]), data.test.labels[rows]
    clean = (model.predict(images, verbose=0).argmax(-1) == labels).mean()
    attack = attack_suite(as_target(model, scores="log"), "l_inf", ["pgd-20"])["pgd-20"]
    robust = 1.0 - attack(images, labels, asked.eps).is_flipped.mean()
    print(f"{name}: clean {clean:.1%}, under {attack.name} at {asked.eps:.4f} {robust:.1%}")


fit("clustr", clustr_epochs, [rate, rate / 10, rate / 100])
report("ClusTR")
fit("clustr-qtrades", qtrades_epochs, [rate], QTRADES(weight=8.0, eps=asked.eps))
report("ClusTR+QTRADES")
model.save(f"{asked.output}/model.keras")
