"""Tiny SavedModels, made once, and one server for each module that asks for it."""

import os
import threading

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest
import tensorflow as tf

from clustr_keras.serving import Client, LocalServer

SIZE = 4  # of the clustr-like model's images
CENTERS = np.array([[0.25], [0.75]], np.float32)


class Toy(tf.Module):
    """Signatures of many kinds; `half_plus` is `x / 2 + offset`, with the offset telling versions apart."""

    def __init__(self, offset):
        self.offset = tf.Variable(offset, dtype=tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def half_plus(self, x):
        return {"y": x / 2 + self.offset}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, name="tag"),
            tf.TensorSpec([None, 3], tf.float32, name="signal"),
            tf.TensorSpec([None, 2, 2], tf.int64, name="sensor"),
        ]
    )
    def three_inputs(self, tag, signal, sensor):
        return {
            "tag": tag,
            "total": tf.reduce_sum(signal, 1),
            "corner": sensor[:, 0, 0],
            "is_big": tf.reduce_sum(sensor, [1, 2]) > 10,
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="data")])
    def binary(self, data):
        return {"reversed_bytes": tf.strings.reduce_join(tf.reverse(tf.strings.bytes_split(data).to_tensor(), [1]), 1)}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, name="x")])
    def mean(self, x):
        return {"mean": tf.reduce_mean(x), "x": x}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def slow(self, x):
        return {"x": tf.py_function(_slowly, [x], tf.float32)}

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.float32, name="x"), tf.TensorSpec([], tf.float32, name="scale")]
    )
    def scaled(self, x, scale=tf.constant(10.0)):  # noqa: B008
        return {"y": x * scale}

    def signatures(self):
        names = ("three_inputs", "binary", "mean", "slow", "scaled")
        return {"serving_default": self.half_plus} | {name: getattr(self, name) for name in names}


class Clustr(tf.Module):
    """The serving contract on a model of one feature: the mean pixel, and two centers."""

    @staticmethod
    def _outputs(images, keys):
        images = tf.ensure_shape(images, [None, SIZE, SIZE, 1])
        is_valid = tf.reduce_all((images >= 0) & (images <= 1), [1, 2, 3])
        mean = tf.reduce_mean(images, [1, 2, 3])
        logits = tf.stack([0.5 - mean, mean - 0.5], 1)
        class_ids = tf.where(is_valid, tf.argmax(logits, 1), -1)
        everything = {
            "class_ids": class_ids,
            "class_names": tf.gather(tf.constant(["", "dark", "h\u00e9ll"]), class_ids + 1),
            "probabilities": tf.where(is_valid[:, None], tf.nn.softmax(logits), 0.0),
            "certified_radius": tf.where(is_valid, tf.abs(mean - 0.5), 0.0),
            "is_valid": is_valid,
            "logits": logits,
            "runner_up_class_ids": 1 - class_ids,
            "nearest_cluster": tf.zeros_like(class_ids),
            "lipschitz_bound": tf.ones_like(mean),
            "embeddings": mean[:, None],
        }
        return {key: everything[key] for key in keys}

    images = tf.TensorSpec([None, None, None, None], tf.float32, name="images")
    prediction = ("class_ids", "class_names", "probabilities", "certified_radius", "is_valid")
    proof = ("logits", "runner_up_class_ids", "nearest_cluster", "lipschitz_bound")

    @tf.function(input_signature=[images])
    def serving_default(self, images):
        return self._outputs(images, self.prediction)

    @tf.function(input_signature=[images])
    def certify(self, images):
        return self._outputs(images, self.prediction + self.proof)

    @tf.function(input_signature=[images, tf.TensorSpec([None], tf.float32, name="radius")])
    def certify_at(self, images, radius):
        outputs = self._outputs(images, ("class_ids", "certified_radius", "is_valid"))
        return outputs | {"is_certified": outputs["is_valid"] & (outputs["certified_radius"] >= radius)}

    @tf.function(input_signature=[images])
    def embed(self, images):
        return self._outputs(images, ("embeddings", "is_valid"))

    @tf.function(input_signature=[images])
    def uncertified(self, images):
        return self._outputs(images, [key for key in self.prediction if key != "certified_radius"])


_alive = []  # a SavedModel refers to Python functions by a token, which lasts as long as their graph


def save_toy(path, offset):
    toy = Toy(offset)
    _alive.append(toy)
    tf.saved_model.save(toy, str(path), signatures=toy.signatures())


def save_clustr(path):
    model = Clustr()
    names = ("serving_default", "certify", "certify_at", "embed", "uncertified")
    tf.saved_model.save(model, str(path), signatures={name: getattr(model, name) for name in names})


class Gate:
    """Holds the `slow` signature until it is opened, so that a test knows a request to be under way."""

    def __init__(self):
        self.entered = threading.Event()
        self.opened = threading.Event()


GATE = Gate()


def _slowly(x):
    GATE.entered.set()
    assert GATE.opened.wait(30)
    return x


@pytest.fixture
def gate():
    GATE.entered.clear()
    GATE.opened.clear()
    yield GATE
    GATE.opened.set()


@pytest.fixture(scope="session")
def toy_dir(tmp_path_factory):
    """Versions 2 and 3 of the toy, which add 2 and 3."""
    path = tmp_path_factory.mktemp("toy")
    for version in (2, 3):
        save_toy(path / str(version), offset=version)
    return path


@pytest.fixture(scope="session")
def clustr_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("clustr")
    save_clustr(path / "1")
    return path


@pytest.fixture(scope="module")
def toy_server(toy_dir):
    with LocalServer(toy_dir, name="toy", max_request_bytes=2**20) as server:
        yield server


@pytest.fixture(scope="module")
def clustr_server(clustr_dir):
    with LocalServer(clustr_dir) as server:
        yield server


@pytest.fixture(params=["grpc", "rest"])
def toy_client(request, toy_server):
    with Client(toy_server.grpc_target if request.param == "grpc" else toy_server.rest_url, model="toy") as client:
        yield client


@pytest.fixture(params=["grpc", "rest"])
def client(request, clustr_server):
    with Client(clustr_server.grpc_target if request.param == "grpc" else clustr_server.rest_url) as client:
        yield client
