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


def certify(*arguments):
    process = start(*arguments)
    out, err = process.communicate(timeout=300)
    return process.returncode, " ".join(out.split()), err


def test_a_folder_with_two_workers(saved, classifier, photos, tmp_path):
    folder, pixels = photos
    arguments = ("--model", saved, "--input", folder, "--output", tmp_path / "out", "--shard-size", 2)
    code, out, err = certify(*arguments, "--direct_num_workers", 2)
    assert (code, err) == (0, "")
    assert "13 images, 5 invalid" in out
    assert len(list((tmp_path / "out").glob("part-*-of-00007.parquet"))) == 7
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    valid = [row for row in rows if row["is_valid"]]
    of_row = [int(pathlib.Path(row["id"]).stem) for row in valid]
    certificate = classifier.certify(np.float32(pixels / np.float32(255)))
    np.testing.assert_array_equal([row["class_id"] for row in valid], certificate.class_ids[of_row])
    np.testing.assert_allclose(
        [row["certified_radius"] for row in valid], certificate.certified_radius[of_row], atol=1e-6
    )

    code, out, err = certify(*arguments, "--json")
    assert (code, err) == (0, "7 of 7 shards are finished already.\n")
    assert json.loads(out) == {
        "model": str(saved),
        "input": str(folder),
        "output": str(tmp_path / "out"),
        "images": 13,
        "invalid": 5,
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


def test_an_error_in_a_worker_is_one_line(saved, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(FULL_DISK)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    arguments = ("--model", saved, "--input", "digits", "--output", tmp_path / "out", "--direct_num_workers", 2)
    process = start(*arguments, env={**os.environ, "PYTHONPATH": path})
    _, err = process.communicate(timeout=200)
    assert (process.returncode, err.count("\n")) == (2, 1)
    assert "the pipeline stopped: OSError: the disk is full" in err
    assert not list((tmp_path / "out").glob("part-*"))
