import json

import pytest

from clustr_keras.bulk.inputs import find_input
from clustr_keras.bulk.manifest import manifest_of
from clustr_keras.bulk.shards import numbered
from clustr_keras.manifest import check_same


def manifest(split="test", size=100, **settings):
    source = find_input("digits", split=split)
    return manifest_of(source, numbered(source.pieces(size)), {"method": None, "model_sha256": "ab", **settings})


def test_the_same_run_has_the_same_manifest():
    assert manifest()["images"] == 360
    assert manifest()["shards"] == 4
    check_same(json.loads(json.dumps(manifest())), manifest(), "runs", "Certificates")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"split": "train"}, r"images: 360 there, 1437 now.*input:"),
        ({"size": 99}, "plan:"),
        ({"method": "nearest"}, "method: None there, nearest now"),
        ({"model_sha256": "cd"}, "model_sha256: ab there, cd now.*choose another"),
    ],
)
def test_another_run_is_refused(other, message):
    with pytest.raises(ValueError, match=message):
        check_same(manifest(), manifest(**other), "runs", "Certificates")


def test_shards_are_numbered_in_their_names():
    names = [shard.file_name for shard in numbered(find_input("digits").pieces(1000))]
    assert names == [f"part-{index:05d}-of-00003.parquet" for index in range(3)]
