"""What is left of a classifier under attack that this package has not made, and whether the figures can be believed.

Run: python examples/evaluate_foreign_model.py [--model some.keras] [--data cifar10] [--threat-model l_inf:8/255]
`--model` is any Keras classifier of float images in [0, 1], with logits or probabilities. Without it a small one of
plain Keras layers is trained for a few seconds and saved in --output.

It prints clean accuracy, accuracy under attack and what the diagnostics say that look for masked gradients, and writes
results.json and report.html. The exit status is 1 if a diagnostic fails, as that of `clustr evaluate` is.
"""

import argparse
import json
import pathlib
import sys

import keras

from clustr_keras.data import as_floats, load, random_rows
from clustr_keras.evaluation import DEFAULT_ATTACKS, ThreatModel, as_target, evaluate, train_surrogate, write_evaluation

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", type=pathlib.Path)
parser.add_argument("--data", default="digits")
parser.add_argument("--data-dir", help="folder of prepared TensorFlow Datasets")
parser.add_argument("--examples", type=int, default=100, help="test images to attack")
parser.add_argument("--threat-model", type=ThreatModel.parse, default=ThreatModel("l_2", 0.3))
parser.add_argument("--attack", nargs="+", default=DEFAULT_ATTACKS)
parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/evaluate_foreign_model"))
asked = parser.parse_args()

asked.output.mkdir(parents=True, exist_ok=True)
data = load(asked.data, asked.data_dir)
x_train, y_train = as_floats(data.train.images), data.train.labels
rows = random_rows(len(data.test), asked.examples)  # those that `clustr evaluate --examples` draws
x_test, y_test = as_floats(data.test.images[rows]), data.test.labels[rows]

if asked.model:
    model = keras.models.load_model(asked.model)
else:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input(data.image_shape),
            keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(data.num_classes, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x_train, y_train, epochs=10, verbose=2)
    model.save(asked.output / "foreign.keras")

evaluation = evaluate(
    model,
    x_test,
    y_test,
    [asked.threat_model],
    asked.attack,
    surrogate=train_surrogate(as_target(model), x_train[:10_000]),  # for flips that are carried over
    folder=asked.output / "stages",  # an interrupted evaluation goes on from there
)
print(f"clean accuracy {evaluation.clean_accuracy:.1%}")
print(f"accuracy under {asked.threat_model} {evaluation.threats[0].robust_accuracy:.1%}")
for diagnostic in evaluation.diagnostics:
    says = {True: "pass", False: "FAIL", None: "says nothing"}[diagnostic.passed]
    print(f"{diagnostic.name}: {says}")
(asked.output / "results.json").write_text(json.dumps(evaluation.as_dict(), indent=2))
write_evaluation(evaluation, asked.output / "report.html", {"data set": data.name})
print(f"Wrote {asked.output / 'results.json'} and report.html.")
sys.exit(0 if evaluation.passed else 1)
