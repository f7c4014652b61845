"""60,000 CIFAR images certified through Apache Beam: one worker against two, and a run that is killed half way.

Every arm is a `clustr certify --input cifar10` of its own, each worker held to one thread; the two take turns, and the
best of three rounds counts. `whole_s` is the command from start to end; `images_per_s` counts from the first file that
a worker has finished to the last one, when all have started. The network is as initialized, which costs what a trained
one does. Rows are compared with those of `model.certify` at the same batch size.

Run: python benchmarks/bulk_certification.py --data-dir DIR, in the environment of `make test-beam`, on a machine with
two cores and nothing else to do. DIR holds cifar10 as TensorFlow Datasets prepares it.
"""

import argparse
import importlib.metadata
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
import pyarrow.parquet as pq
from results import machine, write_results

from clustr_keras import ClustrClassifier
from clustr_keras.backbones import lipschitz_convnet
from clustr_keras.data import as_floats, load

CHANNELS, DENSE = (96, 192), (256, 128)
AT_A_TIME = 40 * 256  # images that fit into memory as floats, in whole batches
COLUMNS = {
    "class_id": "class_ids",
    "runner_up_class_id": "runner_up_class_ids",
    "certified_radius": "certified_radius",
    "radius": "radius",
}


def command(model, data_dir, output, workers):
    """The command of an arm, without start-up notes on its output."""
    return [
        *(sys.executable, "-c", "from clustr_keras.cli import main; main()", "certify"),
        *("--model", model, "--input", "cifar10", "--data-dir", data_dir, "--output", output),
        *("--direct_num_workers", str(workers), "--threads-per-worker", "1"),
    ]


def parts(output):
    """Paths of finished files, in the order in which they were finished."""
    return sorted(pathlib.Path(output).glob("part-*.parquet"), key=lambda path: path.stat().st_mtime)


def cpu_seconds():
    """Of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def timed(arguments, output):
    """Runs an arm: seconds from start to end, images per second once all workers run, and CPU seconds."""
    start, cpu = time.time(), cpu_seconds()
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    whole = time.time() - start
    first, *rest = parts(output)
    images = sum(pq.read_metadata(path).num_rows for path in rest)
    return whole, images / (rest[-1].stat().st_mtime - first.stat().st_mtime), cpu_seconds() - cpu


def rows_of(output):
    """All rows, ordered by shard."""
    return pq.read_table(output)


def killed_and_run_again(arguments, output):
    """Kills an arm when half of its files are there and runs it again: files that were there, seconds of the rerun."""
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and len(parts(output)) < 30:
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
    found = len(parts(output))
    start = time.time()
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    return found, time.time() - start


def differences(rows, model, data_dir):
    """How many class ids differ from those of `model.certify`, and by how much radii do at most."""
    cifar = load("cifar10", data_dir)
    # In the order of the shards: the splits one after the other.
    splits = list(dict.fromkeys(name.split("/")[2] for name in rows["id"].to_pylist()))
    images = np.concatenate([getattr(cifar, split).images for split in splits])
    of_rows = {name: rows[name].to_numpy() for name in COLUMNS}
    classes, radius = 0, 0.0
    for start in range(0, len(images), AT_A_TIME):
        some = slice(start, start + AT_A_TIME)
        certificate = model.certify(as_floats(images[some]))
        for name in ("class_id", "runner_up_class_id"):
            classes += int(np.sum(of_rows[name][some] != getattr(certificate, COLUMNS[name])))
        for name in ("certified_radius", "radius"):
            radius = max(radius, float(np.max(np.abs(of_rows[name][some] - getattr(certificate, name)))))
    return classes, radius


def main(data_dir, rounds):
    keras.utils.set_random_seed(0)
    model = ClustrClassifier(lipschitz_convnet((32, 32, 3), channels=CHANNELS, dense=DENSE), num_classes=10)
    found = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as scratch:
        path = f"{scratch}/model.keras"
        model.save(path)
        for turn in range(rounds):
            for workers, of_arm in found.items():
                output = f"{scratch}/{workers}-{turn}"
                of_arm.append(timed(command(path, data_dir, output, workers), output))
                print(workers, "workers:", *(round(value, 1) for value in of_arm[-1]), flush=True)
        killed = f"{scratch}/killed"
        half, rerun = killed_and_run_again(command(path, data_dir, killed, 2), killed)
        rows = rows_of(f"{scratch}/1-0")
        same = all(rows.equals(rows_of(f"{scratch}/{name}")) for name in ("2-0", "killed"))
        shards = len(parts(killed))
        unique = len(set(rows_of(killed)["id"].to_pylist()))
    print(half, "of", shards, "files, killed; rerun", round(rerun, 1), "s;", unique, "ids; equal:", same, flush=True)
    classes, radius = differences(rows, model, data_dir)
    write_results(__file__, [*arms(found, len(rows), classes, radius), rerun_row(half, shards, rerun, unique, same)])


def arms(found, images, classes, radius):
    """A row for each number of workers."""
    best = {w: (min(a[0] for a in arm), max(a[1] for a in arm), min(a[2] for a in arm)) for w, arm in found.items()}
    return [
        {
            "run": f"{workers} worker{'s' if workers > 1 else ''}, one thread each",
            "network": f"lipschitz_convnet {CHANNELS} {DENSE}, as initialized",
            "images": images,
            "whole_s": round(whole, 1),
            "images_per_s": round(rate),
            "cpu_s": round(cpu, 1),
            "faster, whole": round(best[1][0] / whole, 2),
            "faster, after start-up": round(rate / best[1][1], 2),
            "of all rounds, whole_s": ", ".join(f"{a[0]:.1f}" for a in found[workers]),
            "compared": f"with model.certify: {classes} classes differ, radii by at most {radius:.1e}",
            "seed": 0,
            **circumstances(),
        }
        for workers, (whole, rate, cpu) in best.items()
    ]


def rerun_row(half, shards, rerun, unique, same):
    """The row of the run that was killed."""
    return {
        "run": f"2 workers, killed with {half} of {shards} files, run again",
        "network": "the same",
        "images": unique,
        "whole_s": round(rerun, 1),
        **dict.fromkeys(("images_per_s", "cpu_s", "faster, whole", "faster, after start-up"), ""),
        "of all rounds, whole_s": "",
        "compared": f"{unique} different ids; all columns {'equal' if same else 'UNEQUAL'} in all three outputs",
        "seed": 0,
        **circumstances(),
    }


def circumstances():
    here = machine()
    return here | {"versions": f"{here['versions']}, Apache Beam {importlib.metadata.version('apache-beam')}"}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="Folder of prepared TensorFlow Datasets with cifar10.")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    main(arguments.data_dir, arguments.rounds)
