import io

import pytest

pytest.importorskip("google_crc32c", reason="needs the environment of make test-beam")

import tensorflow as tf

from clustr_keras.bulk.inputs.records import read_records, scan_records

RECORDS = [b"", b"a", b"bc" * 1000, bytes(range(256))]


@pytest.fixture
def written(tmp_path):
    """What TensorFlow writes."""
    path = tmp_path / "some.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in RECORDS:
            writer.write(record)
    return path.read_bytes()


def test_records_are_read_from_any_on(written):
    offsets = scan_records(io.BytesIO(written), "file")
    assert len(offsets) == 4
    for start in range(4):
        for count in (1, 2, 9):
            found = list(read_records(io.BytesIO(written), offsets[start], count))
            assert found == RECORDS[start : start + count]


def test_a_wrong_checksum_spoils_one_record(written):
    offsets = scan_records(io.BytesIO(written), "file")
    broken = bytearray(written)
    broken[offsets[2] + 12 + 7] ^= 1
    assert scan_records(io.BytesIO(broken), "file") == offsets
    assert list(read_records(io.BytesIO(broken), 0, 4)) == [*RECORDS[:2], None, RECORDS[3]]


@pytest.mark.parametrize("missing", [1, 4, 5, 200, 256 + 15])
def test_a_file_that_ends_within_a_record_is_refused(written, missing):
    with pytest.raises(ValueError, match=r"file (ends within record 3|is no TFRecord file)"):
        scan_records(io.BytesIO(written[:-missing]), "file")


def test_another_file_is_refused():
    with pytest.raises(ValueError, match="no TFRecord file, or broken at byte 0"):
        scan_records(io.BytesIO(b"some text that is long enough"), "file")


def test_no_record_at_all():
    assert scan_records(io.BytesIO(b""), "file") == []
