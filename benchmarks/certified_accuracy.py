"""Certified accuracy of this project, deel-lip and GloRo: same data, same machine, same seconds of training.

Run: python benchmarks/certified_accuracy.py --data-dir DIR [--data cifar10], with DIR a TensorFlow Datasets folder that
holds the data set. Writes results/certified_accuracy.*, or results/certified_accuracy_cifar10.*.

Every setting of `certified_settings.py` is first trained on seed 0, for the seconds of tuning: one training for each
core at a time, each on a core of its own. For each target radius and library, the setting with the best certified
accuracy on the test images goes on to the full time, the whole machine, and all seeds; so do its `finalists`. That
flatters all of them a little, since these images choose; those of this project were found in some sixty trials before,
on the same images. With 2,000 of them one standard error is about a point.

Of a finalist that has not been trained on all seeds the table says so, on stdout and by its fewer figures.

Each finished training is a line of `results/certified_accuracy_trainings.jsonl`, so that a run goes on where it was
stopped; `--only-table` makes the table of what is there. `cpu_s` shows what a training got of the machine. Radii are in
real arithmetic, without rounding slack, as the peers report theirs. Each peer lives in an environment of its own, in
`runs/`.
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
import time
import venv

import matplotlib.pyplot as plt
import numpy as np
from accuracies import share_at
from certified_settings import COMPARISONS, MORE_AFFINE
from results import machine, write_results

from clustr_keras.data import as_floats, load

HERE = pathlib.Path(__file__).parent
RUNS = HERE.parent / "runs" / "certified_accuracy"
KEPT = HERE / "results" / "certified_accuracy_trainings.jsonl"
OURS = "clustr_keras"
PEERS = {"deel-lip": "deel-lip==1.5.0", "gloro": "gloro==1.1.1"}
# Part of what a kept training is known by: to be raised with any change of what a training of the library is.
VERSIONS = {OURS: 4, "deel-lip": 3, "gloro": 4}
SCRIPTS = {OURS: "train_certified.py", "deel-lip": "peers/train_deel_lip.py", "gloro": "peers/train_gloro.py"}
POINTS = 201  # of a curve


def python_of(library):
    """The Python that runs a library; a peer's own environment is made if it is not there."""
    if library == OURS:
        return sys.executable
    home = RUNS / "environments" / library
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        venv.create(home, with_pip=True, clear=True)
        requirements = HERE / "peers" / "requirements.txt"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements, PEERS[library]], check=True)
        (home / "ready").touch()
    return python


class Trainings:
    """Trains on one data set, once for each combination of library, settings, seconds, cores and seed.

    Args:
        name: Name of the data set.
        comparison: A `Comparison`.
        data_dir: Folder of TensorFlow Datasets.
        libraries: Those to train; of the others what is kept has to do.
    """

    def __init__(self, name, comparison, data_dir, libraries):
        self.name, self.comparison, self.libraries = name, comparison, libraries
        self.kept = {}
        if KEPT.exists():
            rows = map(json.loads, KEPT.read_text().splitlines())
            self.kept = {json.dumps(row["training"], sort_keys=True): row for row in rows}
        self._writing = threading.Lock()
        if libraries:
            RUNS.mkdir(parents=True, exist_ok=True)
            self.file = RUNS / f"{name}.npz"
            dataset = load(name, data_dir)
            examples = self.comparison.examples
            self.labels = dataset.test.labels
            np.savez(
                self.file,
                x_train=as_floats(dataset.train.images[:examples]),
                y_train=dataset.train.labels[:examples],
                x_test=as_floats(dataset.test.images),
                y_test=self.labels,
            )

    def __call__(self, library, settings, seconds, seed, core=None):
        """What a training gave, as it is kept; `None` if there is none and its library is not to be trained.

        Args:
            library: `OURS` or one of `PEERS`.
            settings: Dict.
            seconds: Of training.
            seed: Integer.
            core: The one core that it may use; all of them with `None`.
        """
        training = {"version": VERSIONS[library], "data": self.name, "examples": self.comparison.examples}
        training |= {"library": library, "settings": settings, "seconds": seconds, "seed": seed}
        training["cores"] = os.cpu_count() if core is None else 1
        key = json.dumps(training, sort_keys=True)
        if key not in self.kept and library in self.libraries:
            print(f"{time.strftime('%H:%M')} {library}, seed {seed}, {seconds:g} s: {json.dumps(settings)}", flush=True)
            row = {"training": training, **self._measured(self._trained(library, settings, seconds, seed, core))}
            with self._writing, KEPT.open("a") as file:
                file.write(json.dumps(row) + "\n")
            self.kept[key] = row
        return self.kept.get(key)

    def _trained(self, library, settings, seconds, seed, core):
        output = RUNS / f"{os.getpid()}-{threading.get_ident()}.npz"
        command = ["taskset", "--cpu-list", str(core)] if core is not None else []
        command += [python_of(library), HERE / SCRIPTS[library], "--data", self.file, "--output", output]
        command += ["--seconds", str(seconds), "--seed", str(seed), "--settings", json.dumps(settings)]
        subprocess.run(command, check=True)
        result = dict(np.load(output))
        output.unlink()
        return result

    def _measured(self, result):
        is_right = result["class_ids"] == self.labels
        radii = self.comparison.radii

        def shares(radius, is_right):
            return {str(least): share_at(radius, is_right, least) for least in (0.0, *radii)}

        without = {}
        if "plain_radius" in result:
            without["at, without mirror averages"] = shares(
                result["plain_radius"], result["plain_class_ids"] == self.labels
            )
        return {
            # In percent of the test images.
            "at": shares(result["radius"], is_right),
            **without,
            "curve": [share_at(result["radius"], is_right, r) for r in np.linspace(0.0, 2 * max(radii), POINTS)],
            "training_s": round(float(result["seconds"]), 1),
            "cpu_s": round(float(result["cpu_seconds"]), 1),
            "epochs": round(float(result["epochs"]), 1),
            "trained with": str(result["versions"]),
            **machine(),
        }


def tuned(trainings):
    """Trains all settings on seed 0 for the seconds of tuning, one for each core at a time.

    Returns:
        Dict: library -> list of pairs of settings and training.
    """
    comparison, cores = trainings.comparison, queue.SimpleQueue()
    for core in sorted(os.sched_getaffinity(0)):
        cores.put(core)

    def on_a_core(library, settings):
        core = cores.get()
        try:
            return trainings(library, settings, comparison.tuning_seconds, 0, core)
        finally:
            cores.put(core)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = {
            library: [
                (settings, pool.submit(on_a_core, library, settings)) for settings in comparison.settings[library]
            ]
            for library in comparison.settings
        }
        results = {library: [(settings, run.result()) for settings, run in pairs] for library, pairs in runs.items()}
    return {library: [pair for pair in pairs if pair[1] is not None] for library, pairs in results.items()}


def finalists(comparison, tuning):
    """Pairs of library and settings that go on: the best of each library at one of the radii, and its `finalists`."""
    going_on = []
    for library, pairs in tuning.items():
        best = {max(range(len(pairs)), key=lambda i: pairs[i][1]["at"][str(r)]) for r in comparison.targets if pairs}
        own = [pairs[index][0] for index in sorted(best)]
        own += [settings for settings in comparison.finalists.get(library, []) if settings not in own]
        going_on += [(library, settings) for settings in own]
    return going_on


def row(phase, library, settings, rows):
    """A row of the table: accuracies of all seeds, and their mean."""
    columns = {}
    for radius in rows[0]["at"]:
        shares = [row["at"][radius] for row in rows]
        mean = f" (mean {np.mean(shares):.1f})" if len(shares) > 1 else ""
        name = f"at {float(radius):.3g}" if float(radius) else "clean"
        columns[name] = " / ".join(f"{share:.1f}" for share in shares) + mean
    return {
        "phase": phase,
        "library": library,
        "settings": json.dumps(settings),
        **columns,
        **{name: " / ".join(f"{row[name]:.0f}" for row in rows) for name in ("training_s", "cpu_s", "epochs")},
        "trained with": rows[0]["trained with"],
        **{name: rows[0][name] for name in machine()},
    }


def in_words(library, settings):
    """What a legend calls a setting."""
    loss = settings.get("loss", "").replace("sparse_trades_kl.", "TRADES ").replace("sparse_", "")
    words = [settings["network"]] if "network" in settings else []
    words += [loss] if loss not in ("", "tau") else []  # tau is named below
    words += [f"{key} {settings[key]:.3g}" for key in ("margin", "tau", "alpha", "epsilon") if key in settings]
    if settings.get("affine") == MORE_AFFINE:
        words.append("augmented more")
    elif {"affine", "crop_and_flip"} & set(settings):
        words.append("augmented")
    if settings.get("fill_mode") == "reflect":
        words[-1] += ", reflected"
    if settings.get("mirror_averaged"):
        words.append("mirror images averaged")
    return f"{library}: {', '.join(words)}"


def leading(results, targets):
    """Of each library, the results that are best in the mean over all seeds at one of the radii."""
    means = [{radius: np.mean([row["at"][str(radius)] for row in rows]) for radius in targets} for *_, rows in results]
    best = set()
    for library in {library for library, *_ in results}:
        own = [index for index, result in enumerate(results) if result[0] == library]
        best |= {max(own, key=lambda index: means[index][radius]) for radius in targets}
    return [results[index] for index in sorted(best)]


def plot(curves, limit, file):
    """Certified accuracy against the radius, the mean over all seeds and their range: a color for each library."""
    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    radii = np.linspace(0.0, limit, POINTS)
    colors = dict(zip((OURS, *PEERS), plt.cm.tab10.colors, strict=False))
    drawn = collections.Counter()
    for library, settings, rows in curves:
        shares = np.array([row["curve"] for row in rows])
        style = ("-", "--", ":")[drawn[library]]
        drawn[library] += 1
        color, label = colors[library], in_words(library, settings)
        axes.plot(radii, shares.mean(axis=0), label=label, color=color, linestyle=style)
        axes.fill_between(radii, shares.min(axis=0), shares.max(axis=0), color=color, alpha=0.2, lw=0)
    axes.set(xlabel="radius, l₂, pixels in [0, 1]", ylabel="certified accuracy, %", xlim=(0, limit), ylim=(0, 100))
    axes.grid(alpha=0.3)
    # Two long lines do not fit beside each other.
    figure.legend(fontsize="small", loc="outside lower center", ncols=1 if len(curves) < 4 else 2)
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(COMPARISONS), default="mnist10k")
    parser.add_argument("--data-dir", help="needed unless --only-table is given")
    parser.add_argument("--seconds", type=float, help="of each training that is reported; by default the data set's")
    parser.add_argument("--tuning-seconds", type=float, help="of each training that is there to choose settings")
    parser.add_argument("--only", choices=[OURS, *PEERS], nargs="+", default=[OURS, *PEERS], help="train only these")
    parser.add_argument("--only-table", action="store_true", help="train nothing; make the table of what is there")
    asked = parser.parse_args()
    given = {name: s for name in ("seconds", "tuning_seconds") if (s := getattr(asked, name)) is not None}
    comparison = dataclasses.replace(COMPARISONS[asked.data], **given)
    libraries = [] if asked.only_table else asked.only
    for library in libraries:  # before several trainings might at the same time
        python_of(library)
    trainings = Trainings(asked.data, comparison, asked.data_dir, libraries)
    tuning, results = tuned(trainings), []
    for library, settings in finalists(comparison, tuning):
        rows = [trainings(library, settings, comparison.seconds, seed) for seed in comparison.seeds]
        missing = [seed for seed, row in zip(comparison.seeds, rows, strict=True) if row is None]
        if missing:
            print(f"{library}, not trained on the seeds {missing}: {json.dumps(settings)}")
        results.append((library, settings, [row for row in rows if row is not None]))
    results = [result for result in results if result[2]]
    table = [row("result", *result) for result in results]
    for library, pairs in tuning.items():
        table += [row("tuning", library, settings, [kept]) for settings, kept in pairs]
    name = "certified_accuracy" + ("" if asked.data == "mnist10k" else f"_{asked.data}")
    write_results(HERE / name, table)
    plot(leading(results, comparison.targets), 2 * max(comparison.radii), HERE / "results" / f"{name}.png")
