"""A certified classifier of your own images: a folder of them, with one subfolder for each class.

Run: python examples/own_images.py photos [--size 32] [--epochs 50] [--radius 0.1] [--output runs/own_images.keras]
for photos/cat/1.png, photos/dog/1.jpg and so on; `--size` is what images are resized to, divisible by 4.

A fifth of the images, drawn at random, is held back. It prints how many of these are right, how many are proved to stay
so within --radius, and the files of the least certain answers: a wrong label, or a picture that shows something else.
"""

import argparse
import pathlib

import keras
import numpy as np

from clustr_keras import CertifiedAccuracy, CertifiedMarginLoss, ClustrClassifier
from clustr_keras.backbones import lipschitz_convnet
from clustr_keras.lipschitz import orthogonal_optimizer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=pathlib.Path)
parser.add_argument("--size", type=int, default=32)
parser.add_argument("--epochs", type=int, default=50)
parser.add_argument("--radius", type=float, default=0.1)
parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/own_images.keras"))
asked = parser.parse_args()

keras.utils.set_random_seed(0)
train, held_back = keras.utils.image_dataset_from_directory(
    asked.folder, image_size=(asked.size, asked.size), batch_size=64, validation_split=0.2, subset="both", seed=0
)
class_names, files = train.class_names, held_back.file_paths


def as_pixels(images, labels):
    """Radii are for pixels in [0, 1], which resizing may leave by a hair."""
    return keras.ops.clip(images / 255.0, 0.0, 1.0), labels


train, held_back = train.map(as_pixels), held_back.map(as_pixels)

model = ClustrClassifier(lipschitz_convnet((asked.size, asked.size, 3)), len(class_names), class_names=class_names)
model.compile(
    orthogonal_optimizer(keras.optimizers.schedules.CosineDecay(1e-2, asked.epochs * len(train))),
    CertifiedMarginLoss(temperature=8.0, margin=5 * asked.radius),
    metrics=["accuracy", CertifiedAccuracy(asked.radius)],
)
model.fit(train, epochs=asked.epochs, validation_data=held_back, verbose=2)
asked.output.parent.mkdir(parents=True, exist_ok=True)
model.save(asked.output)

certificate = model.certify(held_back)  # in the order of the files, since Keras does not shuffle what is held back
labels = np.concatenate([labels for _, labels in held_back])
print(f"{len(files)} images held back: {certificate.accuracy_at(0.0, labels):.1%} right,", end=" ")
print(f"{certificate.accuracy_at(asked.radius, labels):.1%} right and proved to stay so within {asked.radius}")
print("least certain:")
for row in np.argsort(certificate.certified_radius)[:10]:
    answer, rival = class_names[certificate.class_ids[row]], class_names[certificate.runner_up_class_ids[row]]
    print(f"  {files[row]}: {answer} within {certificate.certified_radius[row]:.3f}, then {rival}")
