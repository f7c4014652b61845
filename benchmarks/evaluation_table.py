"""What `clustr evaluate` says of four models that `clustr train` made on mnist10k.

Run: python benchmarks/evaluation_table.py --data-dir DIR, with DIR a TensorFlow Datasets folder that holds mnist10k.
Writes results/evaluation_table.*. Models and evaluations are kept in `runs/evaluation_table/`, so that a run goes on
where it was stopped.

AutoAttack is compared with this project's own attacks on the same images: what these leave standing together, each on
what the ones before it left, against what AutoAttack leaves standing alone. The flips that the diagnostics and other
balls brought are in the worst case and not in that comparison.
"""

import argparse
import json
import pathlib
import subprocess
import sys

from results import machine, write_results

from clustr_keras.evaluation import DEFAULT_ATTACKS

CLUSTR = pathlib.Path(sys.executable).with_name("clustr")
RUNS = pathlib.Path(__file__).parents[1] / "runs" / "evaluation_table"
TRAININGS = {
    "standard": ("--recipe", "standard", "--fast"),
    "clustr-qtrades": ("--recipe", "clustr-qtrades", "--fast", "--eps", "0.1"),
    "clustr-qtrades-paper": ("--recipe", "clustr-qtrades-paper", "--fast", "--eps", "0.1"),
    "certified": ("--recipe", "certified"),
}
# Model, scores that are attacked, threat model: what each was trained for, and the standard one for comparison.
EVALUATIONS = [
    ("standard", None, "l_inf:0.1"),
    ("clustr-qtrades-paper", "paper", "l_inf:0.1"),
    ("clustr-qtrades", "paper", "l_inf:0.1"),
    ("clustr-qtrades", "log", "l_inf:0.1"),
    ("certified", None, "l_2:1"),
]


def clustr(*arguments, statuses=(0,)):
    """Runs a command of the command line."""
    command = [CLUSTR, *map(str, arguments)]
    print(" ".join(map(str, command[1:])), flush=True)
    status = subprocess.run(command, check=False).returncode
    if status not in statuses:
        raise RuntimeError(f"clustr {arguments[0]} ended with exit status {status}.")


def trained(name, data):
    """The .keras file of a model."""
    path = RUNS / f"{name}.keras"
    if not path.exists():
        clustr("train", *TRAININGS[name], *data, "--output", path)
    return path


def evaluated(name, scores, threat_model, data, examples):
    """Figures of an evaluation."""
    folder = RUNS / f"{name}-{scores}-{examples}"
    if not (folder / "results.json").exists():
        options = [] if scores is None else ["--scores", scores]
        options += ["--threat-model", threat_model]
        for attack in (*DEFAULT_ATTACKS, "autoattack"):
            options += ["--attack", attack]
        options += ["--examples", examples, "--subset", examples, "--output", folder]
        # 1: a diagnostic failed, which is what some of these are here to show.
        clustr("evaluate", "--model", trained(name, data), *data, *options, statuses=(0, 1))
    return json.loads((folder / "results.json").read_text())


def rows_of(name, scores, figures):
    """A row for each threat model."""
    failed = [diagnostic["name"] for diagnostic in figures["diagnostics"] if diagnostic["passed"] is False]
    rows = []
    for threat in figures["threat_models"]:
        attacks = {attack["name"]: attack for attack in threat["attacks"]}
        alone = {attack: f"{found['alone']:.3f}" for attack, found in attacks.items() if found["alone"] is not None}
        ours = attacks[DEFAULT_ATTACKS[-1]]["cumulative"]  # the last of them before AutoAttack
        radius = f"{threat['eps']:.4g}"
        certified = f"{figures['certified_accuracy'][radius]:.3f}" if name == "certified" else ""
        rows.append(
            {
                "model": name,
                "scores": scores or "distance" if name != "standard" else "logits",
                "clean": f"{figures['clean_accuracy']:.3f}",
                "threat model": f"{threat['norm']}, eps {threat['eps']:g}",
                "certified": certified,
                "robust, worst case": f"{threat['robust_accuracy']:.3f}",
                **{attack: alone.get(attack, "") for attack in DEFAULT_ATTACKS},
                "autoattack alone": alone["autoattack"],
                "ours together": f"{ours:.3f}",
                "diagnostics failed": ", ".join(failed) or "none",
                "broken certificates": len(figures["broken_certificates"]),
                "examples": figures["examples"],
                "seconds": figures["seconds"],
                **machine(),
            }
        )
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--examples", type=int, default=256)
    asked = parser.parse_args()
    RUNS.mkdir(parents=True, exist_ok=True)
    data = ("--data", "mnist10k", "--data-dir", asked.data_dir)
    table = []
    for name, scores, threat_model in EVALUATIONS:
        figures = evaluated(name, scores, threat_model, data, asked.examples)
        table += rows_of(name, scores, figures)
    write_results(__file__, table)
