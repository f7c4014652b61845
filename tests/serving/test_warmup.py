import shutil

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from clustr_keras.serving import ServingError
from clustr_keras.serving.loaded_model import LoadedModel
from clustr_keras.serving.model_config import ModelConfig
from clustr_keras.serving.model_store import ModelStore
from clustr_keras.serving.warmup import WARMUP_FILE, read_warmup, replay_warmup, write_warmup

REQUESTS = [
    ("serving_default", {"x": np.float32([1, 2])}),
    ("binary", {"data": np.array([b"a\xff", b""], dtype=object)}),
]

CLASSIFY = prediction_log_pb2.PredictionLog(classify_log=prediction_log_pb2.ClassifyLog())


@pytest.fixture
def version(tmp_path, toy_dir):
    """A version folder that a test may change."""
    return shutil.copytree(toy_dir / "2", tmp_path / "toy" / "2")


def write_records(version, records):
    (version / WARMUP_FILE).parent.mkdir()
    with tf.io.TFRecordWriter(str(version / WARMUP_FILE)) as writer:
        for record in records:
            writer.write(record)


def test_what_was_written_is_read(version):
    write_warmup(version, REQUESTS)
    read = list(read_warmup(version))
    assert [name for name, _ in read] == ["serving_default", "binary"]
    np.testing.assert_array_equal(read[0][1]["x"], REQUESTS[0][1]["x"], strict=True)
    assert read[1][1]["data"].tolist() == [b"a\xff", b""]


def test_a_version_without_a_file_has_none(version):
    assert list(read_warmup(version)) == []


def test_replaying_runs_every_request(version, monkeypatch):
    write_warmup(version, REQUESTS)
    model, seen = LoadedModel(version, 2), []
    run = model.run
    monkeypatch.setattr(model, "run", lambda name, inputs: seen.append((name, run(name, inputs))))
    replay_warmup(model, version)
    assert seen[0][1]["y"].tolist() == [2.5, 3.0]
    assert [name for name, _ in seen] == ["serving_default", "binary"]


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([b"not a message \xff"], "is no PredictionLog"),
        (
            [prediction_log_pb2.PredictionLog(classify_log=prediction_log_pb2.ClassifyLog()).SerializeToString()],
            "got classify_log",
        ),
        ([b""], "got None"),
    ],
    ids=["garbage", "classify", "empty"],
)
def test_a_bad_record_keeps_its_version_from_being_served(version, toy_dir, records, words, caplog):
    shutil.copytree(toy_dir / "2", version.with_name("1"))
    write_records(version, records)
    store = ModelStore(ModelConfig(version.parent, "toy"))
    store.load()
    assert store.find().version == 1
    assert words in caplog.text
    with pytest.raises(ServingError, match="version 2"):
        store.find(version=2)


def test_a_request_that_fails_keeps_its_version_from_being_served(version):
    write_warmup(version, [("serving_default", {"x": np.float64([1])})])
    with pytest.raises(ValueError, match="float64"):
        ModelStore(ModelConfig(version.parent, "toy")).load()


def test_a_cut_file_keeps_its_version_from_being_served(version):
    write_warmup(version, REQUESTS)
    path = version / WARMUP_FILE
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="DataLoss"):
        ModelStore(ModelConfig(version.parent, "toy")).load()


def test_too_many_records_are_refused(version):
    write_warmup(version, [("serving_default", {"x": np.float32([1])})] * 1001)
    with pytest.raises(ValueError, match="more than 1000"):
        list(read_warmup(version))
