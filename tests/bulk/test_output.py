import os
import time

import pytest

pytest.importorskip("apache_beam", reason="needs the environment of make test-beam")

import pyarrow as pa
import pyarrow.parquet as pq

from clustr_keras.bulk.output import OutputFolder
from clustr_keras.bulk.shards import numbered
from clustr_keras.bulk.summary import summarize


def unfinished(folder):
    return sorted(folder.glob("_temporary*"))


SHARDS = numbered([(2, "a"), (1, "b"), (2, "c")])
MANIFEST = {"images": 5}


def table(count, radius=0.5):
    return pa.table(
        {
            "label": pa.array([1] * count, pa.int64()),
            "class_id": [1] * (count - 1) + [2],
            "certified_radius": pa.array([radius] * count, pa.float32()),
            "is_valid": [True] * count,
        }
    )


def test_a_file_is_there_once_it_is_complete(tmp_path, monkeypatch):
    output = OutputFolder(str(tmp_path / "out"))
    output.begin(MANIFEST)
    assert output.finished(SHARDS) == []
    output.write(SHARDS[1], table(1))
    assert output.finished(SHARDS) == [SHARDS[1]]

    def killed(table, file):
        file.write(b"PAR1")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", killed)
        with pytest.raises(KeyboardInterrupt):
            output.write(SHARDS[0], table(2))
    assert output.finished(SHARDS) == [SHARDS[1]]
    assert len(unfinished(tmp_path / "out")) == 1
    assert pq.read_table(tmp_path / "out").num_rows == 1
    output.end()
    assert unfinished(tmp_path / "out") == []


def test_what_others_leave_unfinished_is_removed_once_it_is_dead(tmp_path):
    OutputFolder(str(tmp_path)).begin(MANIFEST)
    dead, alive = (tmp_path / f"_temporary-{name}" for name in ("1-part", "2-part"))
    for path in (dead, alive):
        path.write_bytes(b"PAR1")
    os.utime(dead, (1e9, 1e9))
    output = OutputFolder(str(tmp_path))
    output.begin(MANIFEST)
    output.end()
    assert unfinished(tmp_path) == [alive]


def test_a_file_system_that_renames_to_nothing_that_is_there(memory_files, monkeypatch):
    """Such as HDFS; and one without folders, such as GCS."""
    output, beside = OutputFolder("memory://out"), OutputFolder("memory://out")
    output.begin(MANIFEST)
    output.write(SHARDS[0], table(2))
    first = memory_files["memory://out/part-00000-of-00003.parquet"]
    beside.begin(MANIFEST)
    beside.write(SHARDS[0], table(2))
    assert set(memory_files) == {"memory://out/_manifest.json", "memory://out/part-00000-of-00003.parquet"}
    assert memory_files["memory://out/part-00000-of-00003.parquet"] is first
    assert output.finished(SHARDS) == [SHARDS[0]]

    memory_files["memory://out/_temporary-3-part"] = b"PAR1"
    beside.begin(MANIFEST)
    assert "memory://out/_temporary-3-part" in memory_files
    in_two_hours = time.time() + 7200
    monkeypatch.setattr(time, "time", lambda: in_two_hours)
    beside.begin(MANIFEST)
    assert "memory://out/_temporary-3-part" not in memory_files


def test_a_run_that_came_to_nothing_takes_its_manifest_back(tmp_path):
    output = OutputFolder(str(tmp_path))
    assert output.begin(MANIFEST)
    output.withdraw()
    assert not list(tmp_path.iterdir())
    assert output.begin({"images": 6})
    output.write(SHARDS[0], table(2))
    output.withdraw()
    assert not output.begin({"images": 6})


@pytest.mark.parametrize("name", ["out[1]", "out*", "gs://bucket/out?"])
def test_signs_of_patterns_are_refused(name):
    with pytest.raises(ValueError, match="--output must be a path without"):
        OutputFolder(name)


def test_writing_twice_leaves_one_file(tmp_path):
    output = OutputFolder(str(tmp_path))
    for _ in range(2):
        output.write(SHARDS[0], table(2))
    assert [path.name for path in tmp_path.glob("*.parquet")] == ["part-00000-of-00003.parquet"]


def test_another_run_is_refused(tmp_path):
    OutputFolder(str(tmp_path)).begin(MANIFEST)
    with pytest.raises(ValueError, match="differs in images: 5 there, 6 now"):
        OutputFolder(str(tmp_path)).begin({"images": 6})


def test_files_of_unknown_origin_are_refused(tmp_path):
    output = OutputFolder(str(tmp_path))
    output.write(SHARDS[0], table(2))
    with pytest.raises(ValueError, match=r"no _manifest\.json to say of what"):
        output.begin(MANIFEST)


def test_the_summary_counts_rows(tmp_path):
    output = OutputFolder(str(tmp_path))
    for shard in SHARDS:
        output.write(shard, table(shard.count))
    assert str(summarize(output, SHARDS)) == (
        "5 images, 0 invalid, 40.0% of 5 labels right, mean certified radius 0.5000"
    )
    output.write(SHARDS[0], table(1))
    with pytest.raises(RuntimeError, match=r"part-00000-of-00003\.parquet has 1 rows for 2 images"):
        summarize(output, SHARDS)
    output.write(SHARDS[0], table(2, radius=None))
    assert "nothing certified" in str(summarize(output, SHARDS))
