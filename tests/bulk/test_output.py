import pytest

pytest.importorskip("apache_beam", reason="needs the environment of make test-beam")

import pyarrow as pa
import pyarrow.parquet as pq

from clustr_keras.bulk.output import OutputFolder
from clustr_keras.bulk.shards import numbered
from clustr_keras.bulk.summary import summarize

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
    assert list((tmp_path / "out" / "_temporary").iterdir())
    output.begin(MANIFEST)
    assert not (tmp_path / "out" / "_temporary").exists()
    assert pq.read_table(tmp_path / "out").num_rows == 1


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
