"""Certified accuracy of this project, deel-lip and GloRo: same data, same machine, same seconds of training.

Run: python benchmarks/certified_accuracy.py --data-dir DIR [--data cifar10], with DIR a TensorFlow Datasets folder that
holds the data set. Writes results/certified_accuracy.*, or results/certified_accuracy_cifar10.*.

Every setting of `certified_settings.py` is first trained on seed 0, for the seconds of tuning. For each radius and
library, the one with the best certified accuracy on the test images goes on to the full time and to all seeds. That
flatters all of them a little, since these images choose; those of this project were found in some sixty trials before,
on the same images. With 2,000 of them one standard error is about a point.
Each finished training is kept in `runs/certified_accuracy/`, so that a run goes on where it was stopped; `--cached`
makes the table of what is there. While a training is suspended (`kill -STOP`) its clock stands still; `cpu_s` shows
what it got of the machine. Radii are in real arithmetic, without rounding slack, as the peers report theirs. Each peer
lives in an environment of its own there.
"""

import argparse
import collections
import hashlib
import json
import os
import pathlib
import subprocess
import time
import venv

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from budget import Budget
from certified_settings import COMPARISONS
from results import machine, write_results

from clustr_keras import CertifiedMarginLoss, ClustrClassifier, backbones
from clustr_keras.data import CropAndFlip, ImageBatches, RandomAffine, Split, as_floats, load

HERE = pathlib.Path(__file__).parent
RUNS = HERE.parent / "runs" / "certified_accuracy"
# Part of the name of each kept result: to be raised with any change of what a training is.
VERSION = 2
PEERS = {"deel-lip": ("deel-lip==1.5.0", "train_deel_lip.py"), "gloro": ("gloro==1.1.1", "train_gloro.py")}


def train_ours(data, seconds, seed, settings):
    """Class ids and radii on the test images, seconds spent, epochs."""
    keras.utils.set_random_seed(seed)
    make = getattr(backbones, settings["backbone"])
    backbone = make(data["x_train"].shape[1:], **settings.get("sizes", {}))
    model = ClustrClassifier(backbone, num_classes=10)
    loss = CertifiedMarginLoss(settings["temperature"], settings["margin"])
    model.compile(keras.optimizers.Adam(), loss)
    augmentation = None
    if "affine" in settings:
        augmentation = RandomAffine(*settings["affine"])
    elif "crop_and_flip" in settings:
        augmentation = CropAndFlip(settings["crop_and_flip"])
    split = Split(data["x_train"], data["y_train"])
    batches = ImageBatches(split, settings["batch_size"], augmentation, seed=seed)
    budget = Budget(seconds, settings["learning_rate"])
    model.fit(batches, epochs=10**6, verbose=0, callbacks=[budget])
    certificate = model.certify(data["x_test"], method="exact")
    return {
        "class_ids": certificate.class_ids,
        "radius": certificate.radius.astype("float64"),
        "seconds": budget.clock.spent,
        "cpu_seconds": budget.clock.cpu,
        "epochs": budget.steps / len(batches),
        "versions": f"TensorFlow {tf.__version__}",
    }


def train_peer(library, data_file, seconds, seed, settings, output):
    """The same of a peer, in its own environment."""
    package, script = PEERS[library]
    home = RUNS / "environments" / library
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        venv.create(home, with_pip=True, clear=True)
        requirements = HERE / "peers" / "requirements.txt"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements, package], check=True)
        (home / "ready").touch()
    command = [python, HERE / "peers" / script, "--data", data_file, "--output", output, "--seconds", str(seconds)]
    subprocess.run([*command, "--seed", str(seed), "--settings", json.dumps(settings)], check=True)


class Trainings:
    """Trains on one data set, once for each combination of library, settings, seconds and seed."""

    def __init__(self, name, examples, data_dir, only_cached):
        RUNS.mkdir(parents=True, exist_ok=True)
        dataset = load(name, data_dir)
        self.data = {
            "x_train": as_floats(dataset.train.images[:examples]),
            "y_train": dataset.train.labels[:examples],
            "x_test": as_floats(dataset.test.images),
            "y_test": dataset.test.labels,
        }
        self.name, self.examples, self.only_cached = name, examples, only_cached
        self.file = RUNS / f"{name}.npz"
        np.savez(self.file, **self.data)

    def __call__(self, library, settings, seconds, seed):
        """What the training gave, from an earlier run if there was one; `None` if it may not be run."""
        key = json.dumps([VERSION, self.name, self.examples, library, seconds, seed, settings], sort_keys=True)
        output = RUNS / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
        partial = output.with_suffix(".partial.npz")
        if not output.exists():
            if self.only_cached:
                return None
            print(f"{time.strftime('%H:%M')} {library}, seed {seed}, {seconds:g} s: {json.dumps(settings)}", flush=True)
            if library in PEERS:
                train_peer(library, self.file, seconds, seed, settings, partial)
            else:
                np.savez(partial, **train_ours(self.data, seconds, seed, settings))
            os.replace(partial, output)
        return dict(np.load(output))

    def accuracy(self, result, radius):
        """Certified accuracy on the test images, in percent."""
        is_right = result["class_ids"] == self.data["y_test"]
        return 100 * float(np.mean(is_right & (result["radius"] >= radius)))


def compared(trainings, library, comparison):
    """Tunes a library on seed 0, then trains what came out best on all seeds.

    Returns:
        Pairs of settings and results, those of tuning and those of the comparison.
    """
    tuned = [(s, trainings(library, s, comparison.tuning_seconds, 0)) for s in comparison.settings[library]]
    tuned = [(settings, result) for settings, result in tuned if result is not None]
    if not tuned:
        return [], []
    chosen = {
        max(range(len(tuned)), key=lambda i: trainings.accuracy(tuned[i][1], radius)) for radius in comparison.targets
    }
    finals = []
    for settings in (tuned[index][0] for index in sorted(chosen)):
        results = [trainings(library, settings, comparison.seconds, seed) for seed in comparison.seeds]
        finals.append((settings, [result for result in results if result is not None]))
    return [(settings, [result]) for settings, result in tuned], [final for final in finals if final[1]]


def row(trainings, library, comparison, phase, settings, results):
    """A row of the table: accuracies of all seeds, and their mean."""
    columns = {}
    for radius in (0.0, *comparison.radii):
        shares = [trainings.accuracy(result, radius) for result in results]
        mean = f" (mean {np.mean(shares):.1f})" if len(shares) > 1 else ""
        columns[f"at {radius:.3g}" if radius else "clean"] = " / ".join(f"{share:.1f}" for share in shares) + mean
    return {
        "phase": phase,
        "library": library,
        "settings": json.dumps(settings),
        **columns,
        "training_s": " / ".join(f"{float(result['seconds']):.0f}" for result in results),
        "cpu_s": " / ".join(f"{float(result['cpu_seconds']):.0f}" for result in results),
        "epochs": " / ".join(f"{float(result['epochs']):.0f}" for result in results),
        "trained with": str(results[0]["versions"]),
        **machine(),
    }


def in_words(library, settings):
    """What a legend calls a setting."""
    words = [settings[key] for key in ("network", "loss") if key in settings]
    words += [f"{key} {settings[key]:.3g}" for key in ("margin", "tau", "alpha", "epsilon") if key in settings]
    words += ["augmented"] if library != "clustr_keras" and {"affine", "crop_and_flip"} & set(settings) else []
    return f"{library}: {', '.join(words)}"


def plot(curves, trainings, limit, file):
    """Certified accuracy against the radius, the mean over all seeds and their range: a color for each library."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    radii = np.linspace(0.0, limit, 201)
    colors = dict(zip(("clustr_keras", *PEERS), plt.cm.tab10.colors, strict=False))
    drawn = collections.Counter()
    for library, settings, results in curves:
        shares = np.array([[trainings.accuracy(result, radius) for radius in radii] for result in results])
        style = ("-", "--", ":")[drawn[library]]
        drawn[library] += 1
        color, label = colors[library], in_words(library, settings)
        axes.plot(radii, shares.mean(axis=0), label=label, color=color, linestyle=style)
        axes.fill_between(radii, shares.min(axis=0), shares.max(axis=0), color=color, alpha=0.2, lw=0)
    axes.set(xlabel="radius, l_2, pixels in [0, 1]", ylabel="certified accuracy, %", xlim=(0, limit), ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(COMPARISONS), default="mnist10k")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--only", choices=["clustr_keras", *PEERS], nargs="+", default=["clustr_keras", *PEERS])
    parser.add_argument("--cached", action="store_true", help="train nothing; make the table of what is there")
    asked = parser.parse_args()
    comparison = COMPARISONS[asked.data]
    trainings = Trainings(asked.data, comparison.examples, asked.data_dir, asked.cached)
    tuning, final, curves = [], [], []
    for library in asked.only:
        tuned, finals = compared(trainings, library, comparison)
        tuning += [row(trainings, library, comparison, "tuning", *pair) for pair in tuned]
        final += [row(trainings, library, comparison, "result", *pair) for pair in finals]
        curves += [(library, settings, results) for settings, results in finals]
    name = "certified_accuracy" + ("" if asked.data == "mnist10k" else f"_{asked.data}")
    write_results(HERE / name, final + tuning)
    plot(curves, trainings, 2 * max(comparison.radii), HERE / "results" / f"{name}.png")
