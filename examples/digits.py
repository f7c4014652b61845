"""Trains on handwritten digits and proves, for each answer, how far the image may move before the answer changes.

Run: python examples/digits.py [--epochs 20]. It prints how many test images are right, how many are proved to stay so
within 0.3, and three answers with their proofs. It saves digits.keras.
"""

import argparse

import keras

from clustr_keras import CertifiedMarginLoss, ClustrClassifier
from clustr_keras.backbones import lipschitz_mlp
from clustr_keras.data import load_digits

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=20)
epochs = parser.parse_args().epochs

keras.utils.set_random_seed(0)
(x_train, y_train), (x_test, y_test) = load_digits()
model = ClustrClassifier(lipschitz_mlp((8, 8, 1), widths=(128, 128, 64)), num_classes=10)
model.compile(loss=CertifiedMarginLoss(temperature=4.0, margin=0.8), metrics=["accuracy"])
model.fit(x_train, y_train, epochs=epochs, batch_size=64, verbose=2)

certificate = model.certify(x_test)
print(f"right: {certificate.accuracy_at(0.0, y_test):.1%}")
print(f"right, and proved to stay so within 0.3: {certificate.accuracy_at(0.3, y_test):.1%}")
for class_id, radius in zip(certificate.class_ids[:3], certificate.certified_radius[:3], strict=True):
    print(f"a {class_id}, and so after every change of l_2 norm below {radius:.3f}")
model.save("digits.keras")
