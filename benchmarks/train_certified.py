"""Trains a network of this project and writes its certified radii. Run by certified_accuracy.py.

Settings: `backbone` and its `sizes`; `temperature` and `margin` of `CertifiedMarginLoss`; `batch_size`;
`learning_rate`; `affine` or `crop_and_flip`, arguments of the augmentation; `mirror_averaged`, whether the trained
network goes by the mean over an image and its mirror image; then both radii are written.
"""

import numpy as np
from budget import Budget, batches_of, fit_within
from peer import arguments, write

from clustr_keras import CertifiedMarginLoss, ClustrClassifier, backbones, lipschitz
from clustr_keras.training import with_mirror_averages

if __name__ == "__main__":
    asked = arguments()
    settings, data = asked.settings, np.load(asked.data)
    make = getattr(backbones, settings["backbone"])
    model = ClustrClassifier(make(data["x_train"].shape[1:], **settings.get("sizes", {})), num_classes=10)
    model.compile(lipschitz.orthogonal_optimizer(), CertifiedMarginLoss(settings["temperature"], settings["margin"]))
    batches = batches_of(data["x_train"], data["y_train"], settings, asked.seed)
    budget = Budget(asked.seconds, settings["learning_rate"])
    fit_within(budget, model, batches)
    certificate, more = model.certify(data["x_test"], method="exact"), {}
    if settings.get("mirror_averaged"):
        more = {"plain_class_ids": certificate.class_ids, "plain_radius": certificate.radius}
        certificate = with_mirror_averages(model).certify(data["x_test"], method="exact")
    write(asked, certificate.class_ids, certificate.radius, budget.clock, budget.steps / len(batches), **more)
