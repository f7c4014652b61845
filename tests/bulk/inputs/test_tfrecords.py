import gzip

import pytest

pytest.importorskip("apache_beam", reason="needs the environment of make test-beam")

import tensorflow as tf

from clustr_keras.bulk.inputs import find_input


def example(**features):
    kinds = {bytes: "bytes_list", int: "int64_list"}
    made = tf.train.Example()
    for key, value in features.items():
        getattr(made.features.feature[key.replace("__", "/")], kinds[type(value)]).value.append(value)
    return made.SerializeToString()


@pytest.fixture
def records(photos, tmp_path):
    """Eleven records in two files, the second one compressed; six are images."""
    files = [path.read_bytes() for path in sorted(photos[0].rglob("[0-9].png"))]
    first = [example(image__encoded=file, image__class__label=row) for row, file in enumerate(files[:5])]
    first += [b"no example", example(label=3)]
    second = [example(image=files[5], label=5), example(image=b"broken"), example(image=7), b""]
    for name, of_file in (("a-0.tfrecord", first), ("a-1.tfrecord", second)):
        with tf.io.TFRecordWriter(str(tmp_path / name)) as writer:
            for record in of_file:
                writer.write(record)
    packed = tmp_path / "a-1.tfrecord"
    packed.with_suffix(".tfrecord.gz").write_bytes(gzip.compress(packed.read_bytes()))
    packed.unlink()
    return tmp_path, files


@pytest.mark.parametrize("size", [1, 3, 100])
def test_images_labels_and_errors(records, size):
    folder, files = records
    source = find_input(str(folder / "a-*"))
    parts = [source.read(place, count) for count, place in source.pieces(size)]
    ids, labels, read, errors = (
        [value for part in parts for value in getattr(part, name)] for name in ("ids", "labels", "images", "errors")
    )
    assert ids == [f"a-0.tfrecord#{row}" for row in range(7)] + [f"a-1.tfrecord.gz#{row}" for row in range(4)]
    assert labels == [0, 1, 2, 3, 4, None, 3, 5, None, None, None]
    assert read == [*files[:5], b"", b"", files[5], b"broken", b"", b""]
    assert [row for row, error in enumerate(errors) if error] == [5, 6, 9, 10]
    assert errors[5] == "the record is no tf.train.Example"
    assert "no bytes feature image/encoded or image" in errors[6]


def test_a_broken_record_is_a_row(records):
    folder, files = records
    path = folder / "a-0.tfrecord"
    content = bytearray(path.read_bytes())
    content[content.index(files[1]) + 50] ^= 1
    path.write_bytes(content)
    source = find_input(str(path))
    ((count, place),) = source.pieces(100)
    examples = source.read(place, count)
    assert (examples.errors[1], examples.labels[1]) == ("the record's checksum is wrong", None)
    assert examples.images[2] == files[2]


def test_a_file_that_became_shorter_is_said(records):
    folder, _ = records
    source = find_input(str(folder / "a-0.tfrecord"))
    ((count, place),) = source.pieces(100)
    path = folder / "a-0.tfrecord"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="has become shorter"):
        source.read(place, count)


def test_files_of_one_name_are_refused(records):
    folder, _ = records
    (folder / "b").mkdir()
    (folder / "c").mkdir()
    for name in "bc":
        (folder / name / "x.tfrecord").write_bytes((folder / "a-0.tfrecord").read_bytes())
    with pytest.raises(ValueError, match="two files of one name"):
        find_input(str(folder / "?" / "x.tfrecord"))
