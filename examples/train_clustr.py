"""Trains ClusTR as published, then ClusTR+QTRADES, and attacks both through logits that do not saturate.

Run: python examples/train_clustr.py --data cifar10 [--data-dir DIR] [--fast] [--eps 0.0314]
On two cores and a small set: python examples/train_clustr.py --data digits --fast --eps 0.1
"""

import argparse

import keras

from clustr_keras import ClustrClassifier, MagnetLoss
from clustr_keras.attacks import ProjectedGradientDescent
from clustr_keras.backbones import CIFAR10_MEAN, CIFAR10_STD, convnet, resnet18
from clustr_keras.consistency import QTRADES
from clustr_keras.data import as_floats, default_augmentation, load
from clustr_keras.training import EpochCheckpoint, KMeansRefresh, MagnetBatches

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", default="cifar10")
parser.add_argument("--data-dir")
parser.add_argument("--eps", type=float, default=8 / 255)
parser.add_argument("--fast", action="store_true", help="a small convnet and fewer epochs, for a CPU")
parser.add_argument("--output", default="runs/train_clustr")
arguments = parser.parse_args()

keras.utils.set_random_seed(0)
data = load(arguments.data, arguments.data_dir)
mean, std = (CIFAR10_MEAN, CIFAR10_STD) if data.image_shape[-1] == 3 else (0.5, 0.25)
if arguments.fast:
    backbone = convnet(data.image_shape, width=16, mean=mean, std=std)
else:
    backbone = resnet18(data.image_shape, mean=mean, std=std)

model = ClustrClassifier(backbone, data.num_classes, clusters_per_class=2, class_names=data.class_names)
# K-means places the centers, the gradient does not.
model.head.trainable = False
batches = MagnetBatches(
    data.train.images,
    data.train.labels,
    data.num_classes,
    clusters_per_class=2,
    clusters_per_batch=12,
    examples_per_cluster=20,
    augmentation=default_augmentation(data.name),
)


def fit(stage, epochs, milestones, consistency=None):
    """One stage, resumed where a checkpoint is found; the learning rate falls by 10 after each milestone."""
    rate = 1e-3 if arguments.fast else 1e-4
    steps = [milestone * len(batches) - 1 for milestone in milestones]
    rates = [rate / 10**count for count in range(len(steps) + 1)]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(steps, rates) if steps else rate
    model.compile(keras.optimizers.Adam(schedule), MagnetLoss(alpha=12.5), consistency=consistency)
    checkpoint = EpochCheckpoint(f"{arguments.output}/{stage}", batches)
    callbacks = [KMeansRefresh(batches), checkpoint]
    model.fit(batches, initial_epoch=checkpoint.restore(model), epochs=epochs, callbacks=callbacks, verbose=2)


def report(name):
    """Clean accuracy, and accuracy under PGD on the log-space class scores."""
    images, labels = as_floats(data.test.images[:1000]), data.test.labels[:1000]
    clean = (model.predict(images, verbose=0).argmax(-1) == labels).mean()

    def log_scores(x):
        return model.head.log_scores(model.backbone(x, training=False))

    attack = ProjectedGradientDescent(log_scores, "l_inf", steps=20, restarts=2)
    robust = 1.0 - attack(images, labels, eps=arguments.eps).is_flipped.mean()
    print(f"{name}: clean {clean:.1%}, under PGD-20 x 2 at {arguments.eps:.4f} {robust:.1%}")


fit("clustr", *((18, (6, 12)) if arguments.fast else (90, (30, 60))))
report("ClusTR")
fit("clustr-qtrades", 5 if arguments.fast else 25, (), QTRADES(weight=8.0, eps=arguments.eps))
report("ClusTR+QTRADES")
model.save(f"{arguments.output}/model.keras")
