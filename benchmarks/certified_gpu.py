"""`lipschitz_resnet` on all of CIFAR-10, with Keras on JAX: for a machine with a GPU.

Run, where the data set is:

    python benchmarks/certified_gpu.py --prepare runs/cifar10.npz --data-dir DIR

with DIR a TensorFlow Datasets folder that holds `cifar10`; then on the machine with the GPU, which needs JAX, Keras,
NumPy and scikit-learn but neither TensorFlow nor a network:

    KERAS_BACKEND=jax PYTHONPATH=. python benchmarks/certified_gpu.py --data runs/cifar10.npz --seconds 500

Loss, batches, augmentation and mirror averages are those of `certified_recipe("cifar10")`. Trained in what the GPU
takes for float32 (TF32), evaluated in IEEE float32. Radii are in real arithmetic: the distance logits over the proved
Lipschitz bound of the condensed backbone.
"""

import argparse
import json
import time

import jax
import keras
import numpy as np
from accuracies import accuracies_of_logits
from budget import Budget, fit_within
from results import machine, write_results

from clustr_keras import CertifiedMarginLoss, ClustrClassifier, backbones, certificates, lipschitz
from clustr_keras.data import ImageBatches, Split, as_floats
from clustr_keras.training import certified_recipe, with_mirror_averages

RECIPE = certified_recipe("cifar10")
SETTINGS = [
    {"backbone": "lipschitz_resnet", "sizes": {"width": 64, "depths": [2, 2], "dense": [512, 256]}},
    {"backbone": "lipschitz_resnet", "sizes": {"width": 128, "depths": [4, 4], "dense": [1024, 256]}},
    {"backbone": "lipschitz_convnet", "sizes": {"channels": [64, 128], "dense": [512, 256]}},
]


def prepare(file, data_dir):
    """Writes the data set as one file of bytes."""
    from clustr_keras.data import load

    cifar10 = load("cifar10", data_dir)
    np.savez(
        file,
        x_train=cifar10.train.images,
        y_train=cifar10.train.labels,
        x_test=cifar10.test.images,
        y_test=cifar10.test.labels,
    )


def measured(data, settings, seconds, seed):
    """A row: accuracies, steps."""
    keras.utils.set_random_seed(seed)
    make = getattr(backbones, settings["backbone"])
    model = ClustrClassifier(make((32, 32, 3), **settings["sizes"]), 10)
    loss = CertifiedMarginLoss(RECIPE.temperature, RECIPE.margin)
    model.compile(lipschitz.orthogonal_optimizer(), loss, jit_compile=True)
    batches = ImageBatches(
        Split(data["x_train"], data["y_train"]),
        RECIPE.batch_size,
        RECIPE.augmentation,
        seed=seed,
        drop_remainder=True,
    )
    budget = Budget(seconds, learning_rate=1e-2)
    fit_within(budget, model, batches)
    # What is evaluated are fixed kernels, in IEEE float32: the GPU would multiply in TF32.
    condensed = lipschitz.condense(with_mirror_averages(model).backbone)
    bound = lipschitz.bound(condensed).value
    with jax.default_matmul_precision("highest"):
        embeddings = condensed.predict(as_floats(data["x_test"]), batch_size=500, verbose=0)
        logits = certificates.distance_logits(embeddings, keras.ops.convert_to_tensor(model.head.centers))
        logits = keras.ops.convert_to_numpy(logits) / bound
    return {
        "settings": json.dumps(settings),
        **accuracies_of_logits(logits, data["y_test"], RECIPE.radii),
        "lipschitz_bound": f"{bound:.7f}",
        "training_s": round(budget.clock.spent),
        "epochs": round(budget.steps / len(batches), 1),
        "seed": seed,
        **machine(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare", help="write the data set to this .npz file, and stop")
    parser.add_argument("--data-dir")
    parser.add_argument("--data", help=".npz file that was prepared")
    parser.add_argument("--seconds", type=float, default=500.0, help="of training, for each setting")
    parser.add_argument("--only", type=int, nargs="+", default=range(len(SETTINGS)), help="numbers of the settings")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    asked = parser.parse_args()
    if asked.prepare:
        prepare(asked.prepare, asked.data_dir)
    else:
        data, start = dict(np.load(asked.data)), time.perf_counter()
        trials = [(SETTINGS[index], asked.seconds, seed) for index in asked.only for seed in asked.seeds]
        rows = [measured(data, *trial) for trial in trials]
        write_results(__file__, rows)
        print(f"{time.perf_counter() - start:.0f} s in all, compiling included.")
