"""Certified accuracy of this project, deel-lip and GloRo: same data, same machine, same seconds of training.

Run: python benchmarks/certified_accuracy.py --data-dir DIR [--seconds 300] [--seeds 0 1 2], with DIR a TensorFlow
Datasets folder that holds `mnist10k`.

Seed 0 trains every setting in `SETTINGS`; for each radius and library, the setting with the best certified accuracy on
the test images goes on to the other seeds. That choice favors all three alike. Each finished training is kept in
`runs/certified_accuracy/`, so that a run goes on where it was stopped. Radii are in real arithmetic, without rounding
slack, as the peers report theirs. Each peer lives in an environment of its own there.
"""

import argparse
import hashlib
import json
import math
import pathlib
import subprocess
import time
import venv

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from results import machine, write_results

from clustr_keras import CertifiedMarginLoss, ClustrClassifier
from clustr_keras.backbones import lipschitz_mlp
from clustr_keras.data import ImageBatches, RandomAffine, Split, as_floats, load

HERE = pathlib.Path(__file__).parent
RUNS = HERE.parent / "runs" / "certified_accuracy"
PEERS = {"deel-lip": ("deel-lip==1.5.0", "train_deel_lip.py"), "gloro": ("gloro==1.1.1", "train_gloro.py")}
RADII = (0.0, 0.3, 1.0, 1.58)
AFFINE = (0.5, 8.0, 0.05, 0.1)
SETTINGS = {
    "clustr_keras": [
        {"margin": 4.0, "affine": AFFINE},
        {"margin": 4.5, "affine": AFFINE},
        {"margin": 2.5, "affine": AFFINE},
        {"margin": 4.0},
    ],
    "deel-lip": [
        *({"loss": "tau", "tau": tau} for tau in (0.5, 1.0, 2.0, 4.0, 8.0)),
        *({"loss": "tau", "tau": tau, "affine": AFFINE} for tau in (0.5, 1.0, 2.0, 4.0)),
        *({"loss": "hkr", "alpha": alpha, "min_margin": 3.0} for alpha in (5.0, 20.0, 100.0)),
    ],
    "gloro": [
        *(
            {"network": network, "epsilon": epsilon, "loss": loss}
            for network in ("2C2F", "mlp")
            for epsilon in (0.3, 1.0, 1.58)
            for loss in ("sparse_crossentropy", "sparse_trades_kl.1.5")
        ),
        {"network": "2C2F", "epsilon": 1.58, "loss": "sparse_trades_kl.1.5", "affine": AFFINE},
    ],
}


class _Budget(keras.callbacks.Callback):
    """Ends the training after some seconds; until then the learning rate rises for a twentieth, then falls to 0."""

    def __init__(self, seconds, learning_rate):
        super().__init__()
        self.seconds, self.learning_rate = seconds, learning_rate
        self.start, self.spent, self.steps = None, 0.0, 0

    def on_train_batch_begin(self, batch, logs=None):
        share = min(1.0, self.spent / self.seconds)
        rising = min(1.0, (share + 0.01) / 0.05)
        self.model.optimizer.learning_rate.assign(self.learning_rate * rising * 0.5 * (1 + math.cos(math.pi * share)))

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if self.start is None:  # the first step compiles
            self.start = time.perf_counter()
        self.spent = time.perf_counter() - self.start
        if self.spent > self.seconds:
            self.model.stop_training = True


def train_ours(data, seconds, seed, settings):
    """Class ids and radii on the test images, seconds spent, epochs."""
    keras.utils.set_random_seed(seed)
    widths = settings.get("widths", (512, 512, 256, 128))
    model = ClustrClassifier(lipschitz_mlp(data["x_train"].shape[1:], widths), num_classes=10)
    model.compile(keras.optimizers.Adam(), CertifiedMarginLoss(settings.get("temperature", 4.0), settings["margin"]))
    augmentation = RandomAffine(*settings["affine"]) if "affine" in settings else None
    batches = ImageBatches(
        Split(data["x_train"], data["y_train"]), settings.get("batch_size", 1024), augmentation, seed=seed
    )
    budget = _Budget(seconds, settings.get("learning_rate", 7e-3))
    model.fit(batches, epochs=10**6, verbose=0, callbacks=[budget])
    certificate = model.certify(data["x_test"])
    return {
        "class_ids": certificate.class_ids,
        "radius": certificate.radius.astype("float64"),
        "seconds": budget.spent,
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


def trained(library, data, data_file, seconds, seed, settings):
    """What a training gave, from the file of an earlier run if there is one."""
    key = json.dumps([library, seconds, seed, settings], sort_keys=True)
    output = RUNS / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
    if not output.exists():
        print(f"{library}, seed {seed}: {json.dumps(settings)}", flush=True)
        if library in PEERS:
            train_peer(library, data_file, seconds, seed, settings, output)
        else:
            np.savez(output, **train_ours(data, seconds, seed, settings))
    return dict(np.load(output))


def accuracies(result, labels):
    """Certified accuracy at each radius."""
    is_right = result["class_ids"] == labels
    return {f"at {radius:g}": round(float(np.mean(is_right & (result["radius"] >= radius))), 4) for radius in RADII}


def plot(curves, labels, file):
    """Certified accuracy against the radius, of each library's chosen settings, over all seeds."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    radii = np.linspace(0.0, 3.0, 301)
    for (name, results), color in zip(curves.items(), plt.cm.tab10.colors, strict=False):
        shares = np.array(
            [[np.mean((r["class_ids"] == labels) & (r["radius"] >= radius)) for radius in radii] for r in results]
        )
        axes.plot(radii, 100 * shares.mean(axis=0), label=name, color=color)
        axes.fill_between(radii, 100 * shares.min(axis=0), 100 * shares.max(axis=0), color=color, alpha=0.2, lw=0)
    axes.set(xlabel="radius, l_2, pixels in [0, 1]", ylabel="certified accuracy, %", xlim=(0, 3), ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=list(SETTINGS), nargs="+", default=list(SETTINGS))
    asked = parser.parse_args()
    RUNS.mkdir(parents=True, exist_ok=True)
    mnist = load("mnist10k", asked.data_dir)
    data = {
        "x_train": as_floats(mnist.train.images),
        "y_train": mnist.train.labels,
        "x_test": as_floats(mnist.test.images),
        "y_test": mnist.test.labels,
    }
    data_file = RUNS / "mnist10k.npz"
    np.savez(data_file, **data)
    labels, rows, curves = data["y_test"], [], {}
    first, *others = asked.seeds
    for library in asked.only:
        tried = [(s, trained(library, data, data_file, asked.seconds, first, s)) for s in SETTINGS[library]]
        chosen = {
            max(range(len(tried)), key=lambda i: accuracies(tried[i][1], labels)[f"at {radius:g}"])
            for radius in RADII[1:]
        }
        for index, (settings, result) in enumerate(tried):
            results = [(first, result)]
            if index in chosen:
                results += [(s, trained(library, data, data_file, asked.seconds, s, settings)) for s in others]
                curves[f"{library} {json.dumps(settings)}"] = [of_seed for _, of_seed in results]
            figures = [accuracies(of_seed, labels) for _, of_seed in results]
            spread = {
                name: " / ".join(f"{100 * of_seed[name]:.1f}" for of_seed in figures)
                + (f" (mean {100 * np.mean([of_seed[name] for of_seed in figures]):.1f})" if len(figures) > 1 else "")
                for name in figures[0]
            }
            rows.append(
                {
                    "library": library,
                    "settings": json.dumps(settings),
                    "seeds": " ".join(str(seed) for seed, _ in results),
                    **spread,
                    "training_s": round(float(result["seconds"])),
                    "epochs": round(float(result["epochs"])),
                    "trained with": str(result["versions"]),
                    **machine(),
                }
            )
    write_results(__file__, rows)
    plot(curves, labels, (HERE / "results" / pathlib.Path(__file__).stem).with_suffix(".png"))
