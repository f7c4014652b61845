import os
import pickle

import numpy as np
import pytest

from clustr_keras.bulk.inputs import Sample, find_input
from clustr_keras.bulk.shards import numbered

BROKEN = ["a/broken.png", "a/text.jpg", "b/empty.PNG", "b/large.png", "c.png"]


def read_all(source, size):
    return [source.read(shard.place, shard.count) for shard in numbered(source.pieces(size))]


@pytest.mark.parametrize("size", [1, 4, 100])
def test_a_folder_is_read_in_the_order_of_its_paths(photos, size):
    folder, _ = photos
    parts = read_all(find_input(str(folder)), size)
    ids = [name for part in parts for name in part.ids]
    assert ids == sorted([f"{'ab'[index % 2]}/{index}.png" for index in range(8)] + BROKEN)
    files = dict(zip(ids, [file for part in parts for file in part.images], strict=True))
    assert all(files[name] == (folder / name).read_bytes() for name in ids)
    assert max(map(len, parts)) <= size


def test_a_worker_reads_a_folder_without_its_listing(photos):
    source = find_input(str(photos[0]))
    shards = numbered(source.pieces(5))
    of_worker = pickle.loads(pickle.dumps(source))
    assert len(pickle.dumps(source)) < 1000
    assert of_worker.read(shards[1].place, 5).ids == source.read(shards[1].place, 5).ids


def test_a_file_that_is_gone_is_an_error_of_its_own(photos):
    folder, _ = photos
    (shard,) = numbered(find_input(str(folder)).pieces(100))
    (folder / "a" / "0.png").unlink()
    examples = find_input(str(folder)).read(shard.place, shard.count)
    assert examples.errors[0] == "cannot be read: No such file or directory"
    assert examples.errors[1:] == [None] * 12


def test_a_name_that_is_no_utf8_has_an_id(photos):
    folder, _ = photos
    name = os.fsencode(folder) + b"/caf\xe9.png"
    with open(name, "wb") as file:
        file.write(b"of the name")
    source = find_input(str(folder))
    parts = read_all(source, 5)
    ids = [row for part in parts for row in part.ids]
    assert ids.count("caf\\xe9.png") == 1
    images = dict(zip(ids, [image for part in parts for image in part.images], strict=True))
    assert images["caf\\xe9.png"] == b"of the name"
    assert len(source.facts["listing"]) == 64
    (folder / "caf\\xe9.png").write_bytes(b"of the other")
    with pytest.raises(ValueError, match="spells out the bytes of another one"):
        find_input(str(folder))


def test_a_link_that_leads_nowhere_is_an_error_of_its_own(photos):
    folder, _ = photos
    (folder / "d.png").symlink_to("nothing.png")
    (part,) = read_all(find_input(str(folder)), 100)
    assert (part.ids[-1], part.errors[-1]) == ("d.png", "cannot be read: No such file or directory")


def test_a_folder_that_cannot_be_listed_is_said(photos, monkeypatch):
    folder, _ = photos
    scandir = os.scandir

    def refusing(path):
        if os.fspath(path).endswith("b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(PermissionError, match="photos/b"):
        find_input(str(folder))


def test_a_remote_folder_of_folders(photos, memory_files):
    folder, _ = photos
    for path in folder.glob("?/*"):
        memory_files[f"memory://bucket/photos/{path.relative_to(folder)}"] = path.read_bytes()
    memory_files["memory://bucket/records/a.tfrecord"] = b""
    (part,) = read_all(find_input("memory://bucket/photos/"), 100)
    assert part.ids == sorted([f"{'ab'[index % 2]}/{index}.png" for index in range(8)] + BROKEN[:-1])
    assert part.images[part.ids.index("a/0.png")] == (folder / "a" / "0.png").read_bytes()
    for pattern in ("memory://bucket/*/a.tfrecord", "memory://bucket/records/a.tfrecord"):
        assert list(find_input(pattern).pieces(100)) == []
    with pytest.raises(FileNotFoundError, match="matches no file"):
        find_input("memory://bucket/pho*")


@pytest.mark.parametrize("change", ["add", "grow", "touch"])
def test_a_changed_folder_is_another_input(photos, change):
    folder, _ = photos
    before = find_input(str(folder)).facts
    assert find_input(str(folder)).facts == before
    path = folder / "a" / "0.png"
    if change == "add":
        (folder / "a" / "00.png").write_bytes(path.read_bytes())
    elif change == "grow":
        status = path.stat()
        path.write_bytes(path.read_bytes() + b"0")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        os.utime(path, (1, 1))
    assert find_input(str(folder)).facts != before


def test_digits_by_splits(digits):
    (x_train, _), (x_test, y_test) = digits
    parts = read_all(find_input("digits", split="test"), 100)
    assert [len(part) for part in parts] == [100, 100, 100, 60]
    np.testing.assert_array_equal(np.concatenate([part.images for part in parts]), x_test)
    assert [label for part in parts for label in part.labels] == y_test.tolist()
    assert parts[1].ids[:2] == ["digits/test/100", "digits/test/101"]
    everything = [name for part in read_all(find_input("digits"), 500) for name in part.ids]
    assert len(set(everything)) == len(everything) == len(x_train) + len(x_test)


def test_a_sample_is_drawn_at_random_from_all_images(digits):
    whole = find_input("digits")
    drawn = sorted(np.random.default_rng(3).permutation(1797)[:250].tolist())
    expected = [f"digits/train/{row}" if row < 1437 else f"digits/test/{row - 1437}" for row in drawn]
    images = np.concatenate([part[0] for part in digits])[drawn]
    for size in (100, 2000):
        parts = read_all(pickle.loads(pickle.dumps(Sample(whole, 250, seed=3))), size)
        assert [name for part in parts for name in part.ids] == expected
        np.testing.assert_array_equal(np.concatenate([part.images for part in parts]), images)
    facts = [source.facts for source in (whole, Sample(whole, 250), Sample(whole, 250, 3), Sample(whole, 251))]
    assert all(first != second for row, first in enumerate(facts) for second in facts[:row])


def test_a_sample_of_files_keeps_what_belongs_to_each(photos):
    whole = find_input(str(photos[0]))
    (photos[0] / "a" / "0.png").unlink()
    (everything,) = read_all(whole, 100)

    def by_id(part):
        rows = zip(part.ids, part.images, part.errors, part.labels, strict=True)
        return {name: rest for name, *rest in rows}

    found = {name: rest for part in read_all(Sample(whole, 12), 2) for name, rest in by_id(part).items()}
    assert len(found) == 12
    assert found == {name: by_id(everything)[name] for name in found}
    assert len(read_all(Sample(whole, 100), 100)[0]) == 13


def test_a_prepared_data_set_is_read_in_parts(prepared):
    from clustr_keras.data.prepared import PreparedImages

    source = pickle.loads(pickle.dumps(find_input("few_digits", prepared, "test")))
    (whole,) = read_all(source, 100)
    parts = read_all(source, 7)
    assert [len(part) for part in parts] == [7] * 7 + [1]
    np.testing.assert_array_equal(np.concatenate([part.images for part in parts]), whole.images)
    assert [label for part in parts for label in part.labels] == whole.labels
    assert parts[2].ids[0] == "few_digits/1.0.0/test/14"

    images, labels = PreparedImages("few_digits", prepared).read("test")

    def rows(images, labels):
        return sorted((image.tobytes(), label) for image, label in zip(images, labels, strict=True))

    assert rows(images, labels) == rows(whole.images, whole.labels)


def test_all_splits_of_a_prepared_data_set_by_default(prepared):
    ids = [name for part in read_all(find_input("few_digits", prepared), 20) for name in part.ids]
    assert len(set(ids)) == len(ids) == 53


def test_a_prepared_image_that_is_broken_stays_alone(prepared, monkeypatch):
    import tensorflow as tf

    source = find_input("few_digits", prepared, "test")
    whole = source.read(("test", 40), 3)
    images = source._source()
    examples = images.examples

    def with_a_broken_one(split, decoded=True, in_file_order=False):
        if decoded:
            return examples(split, True, in_file_order).map(lambda image, label: (tf.io.decode_png(b"x"), label))
        stored = examples(split, False, in_file_order).enumerate()
        return stored.map(lambda row, example: (tf.where(row == 1, b"x", example[0]), example[1]))

    monkeypatch.setattr(images, "examples", with_a_broken_one)
    found = source.read(("test", 40), 3)
    assert [error is None for error in found.errors] == [True, False, True]
    assert "cannot be decoded" in found.errors[1]
    np.testing.assert_array_equal(found.images[[0, 2]], whole.images[[0, 2]])
    assert found.labels == whole.labels


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("empty",), ValueError, "holds 0 files, and none that ends in .png"),
        (("none*.tfrecord",), FileNotFoundError, "matches no file"),
        (("no_such_data_set", "empty"), FileNotFoundError, "there is no data set 'no_such_data_set'"),
        (("digits", None, "validation"), ValueError, "which are train, test, joined by"),
        (("digits", None, "test+test"), ValueError, "joined by"),
        (("photos", None, "test"), ValueError, "--split are for data sets by name"),
    ],
)
def test_what_cannot_be_found_is_said(photos, arguments, error, message, monkeypatch):
    monkeypatch.chdir(photos[0].parent)
    os.mkdir("empty")
    with pytest.raises(error, match=message):
        find_input(*arguments)
