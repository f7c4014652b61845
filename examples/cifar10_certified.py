"""Certified CIFAR-10: a convolutional network that cannot stretch distances, trained for a margin, then proved.

Run: python examples/cifar10_certified.py [--data-dir DIR] [--epochs 300] [--output runs/cifar10_certified]
It prints clean accuracy, and certified accuracy at 36/255, 72/255 and 108/255: the share of test images that are right
and proved to stay so under every change of l_2 norm below that, float32 rounding included. It saves model.keras in
--output. The same command goes on where a stopped one was. `clustr train --recipe certified --data cifar10` is the same
training in one line.
"""

import argparse

import keras

from clustr_keras import CertifiedAccuracy, CertifiedMarginLoss, ClustrClassifier
from clustr_keras.backbones import lipschitz_convnet
from clustr_keras.data import ImageBatches, as_floats, load
from clustr_keras.lipschitz import orthogonal_optimizer
from clustr_keras.training import EpochCheckpoint, certified_recipe, with_mirror_averages

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", default="cifar10")
parser.add_argument("--data-dir", help="folder of prepared TensorFlow Datasets")
parser.add_argument("--epochs", type=int, default=300)
parser.add_argument("--output", default="runs/cifar10_certified")
asked = parser.parse_args()

keras.utils.set_random_seed(0)
data = load(asked.data, asked.data_dir)
recipe = certified_recipe(data.name)
# CropAndFlip(fill_mode="reflect") for cifar10: zeros beyond the edge would be far, in l_2, from any test image.
batches = ImageBatches(data.train, batch_size=512, augmentation=recipe.augmentation)

# 1-Lipschitz by construction: orthogonal convolutions and dense layers, and MaxMin between them.
backbone = lipschitz_convnet(data.image_shape)
model = ClustrClassifier(backbone, data.num_classes, class_names=data.class_names, temperature=8.0)

# The learning rate rises for a twentieth of all steps, then falls to 0 along a cosine.
steps = asked.epochs * len(batches)
rising = round(0.05 * steps)
schedule = keras.optimizers.schedules.CosineDecay(0.0, steps - rising, warmup_target=2e-2, warmup_steps=rising)
model.compile(
    orthogonal_optimizer(schedule),
    CertifiedMarginLoss(temperature=8.0, margin=1.25),
    metrics=["accuracy", CertifiedAccuracy(36 / 255)],
)
checkpoint = EpochCheckpoint(f"{asked.output}/checkpoint", batches)
first = checkpoint.restore(model)
if first < asked.epochs:
    model.fit(batches, initial_epoch=first, epochs=asked.epochs, callbacks=[checkpoint], verbose=2)

if recipe.mirror_averaged:  # the mean over an image and its mirror image: more is proved, at twice the inference
    model = with_mirror_averages(model)
model.save(f"{asked.output}/model.keras")

certificate = model.certify(as_floats(data.test.images))
print(f"Lipschitz bound {certificate.lipschitz_bound:.7f}")
print(f"clean accuracy {certificate.accuracy_at(0.0, data.test.labels):.2%}")
for numerator in (36, 72, 108):
    certified = certificate.accuracy_at(numerator / 255, data.test.labels)
    print(f"certified accuracy at {numerator}/255 {certified:.2%}")
