"""`clustr certify --input` from the shell."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("apache_beam", reason="needs the environment of make test-beam")

import pyarrow.parquet as pq

COMMAND = [sys.executable, "-c", "from clustr_keras.cli import main; main()", "certify"]


def start(*arguments, **options):
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def with_program(folder, program):
    """An environment in which every Python process runs a program first."""
    (folder / "sitecustomize.py").write_text(program)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def certify(*arguments, **options):
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=300)
    return process.returncode, " ".join(out.split()), err


# A file for each time that a process imports TensorFlow or loads a model.
COUNTING = """
import os, uuid, wrapt

def note(what):
    open(f"{os.path.dirname(__file__)}/{what}-{os.getpid()}-{uuid.uuid4().hex}", "w").close()

def count_loads(module):
    load = module.load_model
    module.load_model = lambda *args, **kwargs: (note("load"), load(*args, **kwargs))[1]

wrapt.register_post_import_hook(lambda module: note("import"), "tensorflow")
wrapt.register_post_import_hook(count_loads, "keras.models")
"""


def test_a_folder_with_two_workers(saved, classifier, photos, tmp_path):
    folder, pixels = photos
    (folder / "e.png").symlink_to("nothing.png")
    with open(os.fsencode(folder) + b"/f\xe9.png", "wb") as file:
        file.write((folder / "a" / "0.png").read_bytes())
    arguments = ("--model", saved, "--input", folder, "--output", tmp_path / "out", "--shard-size", 2)
    (tmp_path / "counts").mkdir()
    env = with_program(tmp_path / "counts", COUNTING)
    code, out, err = certify(*arguments, "--direct_num_workers", 2, env=env)
    assert (code, err) == (0, "")
    assert "15 images, 6 invalid" in out
    assert len(list((tmp_path / "out").glob("part-*-of-00008.parquet"))) == 8
    counts = [path.name.split("-")[:2] for path in (tmp_path / "counts").glob("*-*-*")]
    loads, imports = ([process for what, process in counts if what == kind] for kind in ("load", "import"))
    # Once in each of two workers, and never in the process that plans.
    assert len(loads) == len(set(loads)) == 2
    assert sorted(imports) == sorted(loads)
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    valid = [row for row in rows if row["is_valid"]]
    assert valid[-1]["id"] == "f\\xe9.png"
    of_row = [0 if row is valid[-1] else int(pathlib.Path(row["id"]).stem) for row in valid]
    certificate = classifier.certify(np.float32(pixels / np.float32(255)))
    np.testing.assert_array_equal([row["class_id"] for row in valid], certificate.class_ids[of_row])
    np.testing.assert_allclose(
        [row["certified_radius"] for row in valid], certificate.certified_radius[of_row], atol=1e-6
    )

    code, out, err = certify(*arguments, "--json")
    assert (code, err) == (0, "8 of 8 shards are finished already.\n")
    assert json.loads(out) == {
        "model": str(saved),
        "input": str(folder),
        "output": str(tmp_path / "out"),
        "images": 15,
        "invalid": 6,
        "labeled": 0,
        "accuracy": None,
        "mean_certified_radius": pytest.approx(np.mean([row["certified_radius"] for row in valid])),
    }
    code, out, err = certify(*arguments, "--method", "nearest")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "belongs to another run, which differs in method: None there, nearest now" in err


def test_a_random_sample_of_the_input(saved, classifier, digits, tmp_path):
    arguments = ("--model", saved, "--input", "digits", "--split", "test", "--output", tmp_path / "out")
    code, out, err = certify(*arguments, "--examples", 30, "--seed", 4, "--json")
    assert (code, err) == (0, "")
    drawn = np.sort(np.random.default_rng(4).permutation(360)[:30])
    rows = pq.read_table(tmp_path / "out").to_pydict()
    assert rows["id"] == [f"digits/test/{row}" for row in drawn]
    assert rows["label"] == digits[1][1][drawn].tolist()
    certificate = classifier.certify(digits[1][0][drawn])
    np.testing.assert_array_equal(rows["class_id"], certificate.class_ids)
    answer = json.loads(out)
    assert (answer["images"], answer["labeled"]) == (30, 30)
    assert answer["accuracy"] == pytest.approx(np.mean(certificate.class_ids == digits[1][1][drawn]))


def test_a_killed_run_goes_on(saved, classifier, digits, tmp_path):
    output = tmp_path / "out"
    arguments = ("--model", saved, "--input", "digits", "--output", output, "--shard-size", 4, "--batch-size", 4)
    with start(*arguments, "--direct_num_workers", 2) as process:
        deadline = time.monotonic() + 200
        while len(list(output.glob("part-*"))) < 150 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    done = len(list(output.glob("part-*")))
    assert 150 <= done < 450
    code, out, err = certify(*arguments)
    assert (code, err) == (0, "")
    assert "of 450 shards are finished already" in out
    assert "1797 images, 0 invalid" in out
    rows = pq.read_table(output).to_pydict()
    assert len(set(rows["id"])) == len(rows["id"]) == 1797
    certificate = classifier.certify(np.concatenate([part[0] for part in digits]), batch_size=4)
    np.testing.assert_array_equal(rows["class_id"], certificate.class_ids)
    np.testing.assert_allclose(rows["certified_radius"], certificate.certified_radius, atol=1e-6)


FULL_DISK = """
import sys

if "apache_beam.runners.worker.sdk_worker_main" in sys.orig_argv:
    import pyarrow.parquet

    def write_table(table, file):
        raise OSError("the disk is full")

    pyarrow.parquet.write_table = write_table
"""
OUT_OF_MEMORY = FULL_DISK.replace('raise OSError("the disk is full")', "sys.modules['os'].abort()")


@pytest.mark.parametrize(
    ("program", "workers", "message"),
    [(FULL_DISK, 2, "OSError: the disk is full"), (OUT_OF_MEMORY, 1, "a worker process was killed or crashed")],
    ids=["full disk", "out of memory"],
)
def test_an_error_in_a_worker_is_one_line(program, workers, message, saved, tmp_path):
    arguments = ("--model", saved, "--input", "digits", "--output", tmp_path / "out")
    process = start(*arguments, "--direct_num_workers", workers, env=with_program(tmp_path, program))
    _, err = process.communicate(timeout=200)
    assert (process.returncode, err.count("\n")) == (2, 1)
    assert err.startswith("clustr: the pipeline stopped: ")
    assert message in err
    assert not list((tmp_path / "out").iterdir())
