"""A classifier as attacks see it: images in, logits out."""

import dataclasses
import functools
import hashlib
import inspect
import os
import pathlib
from collections.abc import Callable
from typing import Any, get_args

import keras
import numpy as np
import tensorflow as tf

from clustr_keras.attacks import ProjectedGradientDescent
from clustr_keras.attacks.attack import Logits
from clustr_keras.attacks.steps import compiled
from clustr_keras.backend import require_tensorflow
from clustr_keras.certification import Certifier
from clustr_keras.classifier import Certificate, ClustrClassifier
from clustr_keras.digest import sha256_of_files
from clustr_keras.lipschitz import UnknownBoundError, fingerprint
from clustr_keras.names import Scores
from clustr_keras.types import Floats, Ints

SCORES: tuple[str, ...] = get_args(Scores)
# Flat for large inputs, and of the same order as those.
_SATURATING = (keras.activations.softmax, keras.activations.sigmoid)
# Least probability whose logarithm is taken: not far below it float32 has no normal numbers.
_TINY = 1e-37


@dataclasses.dataclass(frozen=True)
class Target:
    """A classifier to evaluate.

    Args:
        logits: Function from float32 images `[B, H, W, C]` to logits `[B, classes]`, of TensorFlow operations.
        image_shape: `(H, W, C)`.
        num_classes: Integer.
        name: What the report calls it.
        certify: Function from images, and the size of batches if need be, to a `Certificate`; or `None`.
        embed: Function from images to embeddings `[B, D]`, or `None`.
        centers: Floats `[C, K, D]`, or `None`.
        class_names: Tuple of strings.
        fingerprint: String that no other model has, or `None`: what attacks found is then not kept on disk.
        certifier: `Certifier`, where there is one.
    """

    logits: Logits
    image_shape: tuple[int, ...]
    num_classes: int
    name: str
    certify: Callable[..., Certificate] | None = None
    embed: Callable[[Floats], Floats] | None = None
    centers: Floats | None = None
    class_names: tuple[str, ...] = ()
    fingerprint: str | None = None
    certifier: Certifier | None = None

    @functools.cached_property
    def compiled_logits(self) -> Logits:
        """`logits` as a graph, which all attacks on them share: to trace a network takes longer than an attack."""
        return compiled(self.logits)

    @functools.cached_property
    def _loops(self) -> dict[object, ProjectedGradientDescent]:
        return {}

    def pgd(self, norm: str, **settings: Any) -> ProjectedGradientDescent:
        """`ProjectedGradientDescent` on these logits; those that differ in numbers only share one compiled loop."""
        attack = ProjectedGradientDescent(self.compiled_logits, norm, **settings)
        return attack.compiled_as(self._loops.setdefault((norm, attack.loss, attack.decay), attack))

    def predict(self, images: Floats, batch_size: int = 256) -> tuple[Ints, Floats]:
        """Class ids `[B]` of images, and their logits `[B, classes]`."""
        batches = [tf.constant(images[i : i + batch_size]) for i in range(0, len(images), batch_size)]
        parts = [np.asarray(self.compiled_logits(batch)) for batch in batches]
        logits = np.concatenate(parts)
        if not np.isfinite(logits).all():
            raise ValueError("the model gives logits that are not finite; nothing follows from them.")
        return logits.argmax(axis=-1), logits


def as_target(model: keras.Model | Target | str | os.PathLike[str], scores: str | None = None) -> Target:
    """Makes a target of any Keras classifier or SavedModel.

    Of a `ClustrClassifier` the deployed network is attacked, through its distance logits or other scores of its
    clusters. A softmax or sigmoid at the end of a Keras model is taken off, as it saturates. Where a SavedModel has a
    signature with `logits` those are attacked, and the logarithms of its probabilities otherwise; an export of this
    package brings its certificates along.

    Args:
        model: `ClustrClassifier`, another `keras.Model` with logits or probabilities `[B, classes]`, a `Target`, or the
            path of a SavedModel.
        scores: For a `ClustrClassifier`: `"distance"` (default), `"log"` (votes of the clusters, in log space) or
            `"paper"` (the same votes as published, which saturate).

    Returns:
        A `Target`.

    Raises:
        ValueError: If the model is no classifier of images, `scores` does not go with it, or Keras does not run on
            TensorFlow.

    Example:

    >>> as_target(keras.models.load_model("some.keras")).predict(x_test)[0]
    """
    if isinstance(model, Target):
        return model
    if isinstance(model, keras.Model):
        require_tensorflow("an attack on a Keras model")
    if isinstance(model, ClustrClassifier):
        return _of_clustr(model, scores or "distance")
    if scores is not None:
        raise ValueError(f"scores={scores!r} is for a ClustrClassifier; got a {type(model).__name__}.")
    if isinstance(model, keras.Model):
        return _of_keras(model)
    if isinstance(model, str | os.PathLike):
        return _of_saved_model(os.fspath(model))
    raise ValueError(f"expected a Keras model or the path of a SavedModel; got a {type(model).__name__}.")


def _of_clustr(model, scores):
    if scores not in SCORES:
        raise ValueError(f"scores must be one of {SCORES}; got {scores!r}.")
    certify = certifier = None
    if scores == "distance":
        try:
            certifier = model.certifier()
            logits, certify = certifier.deployed_logits, model.certify
        except UnknownBoundError:  # the network as it is
            logits = _in_inference(model)
    else:
        of_embeddings = getattr(model.head, f"{scores}_scores")

        def logits(images):
            return of_embeddings(model.backbone(images, training=False))

    return Target(
        logits=logits,
        image_shape=model.backbone.input_shape[1:],
        num_classes=model.num_classes,
        name=f"{model.backbone.name}, {scores} scores",
        certify=certify,
        embed=model.embed,
        centers=keras.ops.convert_to_numpy(model.head.centers),
        class_names=tuple(model.class_names or ()),
        fingerprint=_fingerprint_of(model, scores),
        certifier=certifier,
    )


def _of_keras(model):
    shape = model.input_shape
    if not isinstance(shape, tuple) or len(shape) != 4 or len(model.output_shape) != 2:
        raise ValueError(
            "the model must take images [B, H, W, C] and give one score for each class [B, classes]; it takes "
            f"{shape} and gives {model.output_shape}."
        )
    logits = _in_inference(_without_saturation(model))
    if _gives_probabilities(logits, shape[1:]):
        logits = log_of(logits)
    if model.output_shape[-1] < 2:
        raise ValueError(
            f"the model must give one score for each of at least 2 classes; it gives {model.output_shape}. Of a model "
            "with one output z make one with the two logits 0 and z."
        )
    return Target(logits, shape[1:], model.output_shape[-1], model.name, fingerprint=_fingerprint_of(model))


def _in_inference(model):
    # Under a mixed precision policy the outputs are float16.
    return lambda images: tf.cast(model(images, training=False), tf.float32)


def _fingerprint_of(model, scores=""):
    """Of configuration and weights, and of the source of classes that come with neither Keras nor this package."""
    digest = hashlib.sha256(scores.encode())
    try:
        digest.update(fingerprint(model).tobytes())
        for layer in [model, *model._flatten_layers()]:
            kind = type(layer)
            digest.update(f"{kind.__module__}.{kind.__qualname__}".encode())
            if kind.__module__.split(".")[0] not in ("keras", "clustr_keras"):
                digest.update(inspect.getsource(kind).encode())
    except (NotImplementedError, OSError, TypeError):  # no configuration, or a class without a source
        return None
    return digest.hexdigest()


def _without_saturation(model):
    """The model up to the softmax or sigmoid that it ends in; itself if it does not, or is no graph of layers."""
    outputs = getattr(model, "outputs", None)
    last = next((layer for layer in reversed(model.layers) if _gives(layer, outputs)), None)
    if last is None:
        return model
    activation = getattr(last, "activation", None)
    is_saturating = activation in _SATURATING
    if isinstance(last, keras.layers.Softmax) or (isinstance(last, keras.layers.Activation) and is_saturating):
        return keras.Model(model.inputs, last.input)
    if not is_saturating:
        return model
    linear = type(last).from_config({**last.get_config(), "activation": "linear", "name": f"{last.name}_linear"})
    logits = linear(last.input)
    linear.set_weights(last.get_weights())
    return keras.Model(model.inputs, logits)


def _gives(layer, outputs):
    """Whether a layer makes the one output of a graph of layers."""
    try:
        return bool(outputs) and len(outputs) == 1 and layer.output is outputs[0]
    except AttributeError:  # never called, or more than once
        return False


def _gives_probabilities(logits, image_shape):
    """Whether the outputs of some random images are probabilities."""
    shape = tuple(size or 32 for size in image_shape)
    outputs = np.asarray(logits(tf.constant(np.random.default_rng(0).uniform(size=(8, *shape)), tf.float32)))
    return bool((outputs >= 0).all() and np.allclose(outputs.sum(axis=-1), 1.0, atol=1e-3))


def log_of(scores: Logits) -> Logits:
    """The function to the logarithms of what a function to positive numbers gives."""
    return lambda images: tf.math.log(tf.maximum(scores(images), _TINY))


def _of_saved_model(path):
    try:
        loaded = tf.saved_model.load(path)
    except OSError as error:
        raise ValueError(f"no SavedModel at {path!r}; expected a folder with saved_model.pb.") from error
    by_default_first = sorted(loaded.signatures.items(), key=lambda item: item[0] != "serving_default")
    for wanted in ("logits", "probabilities", None):
        for name, signature in by_default_first:
            found = _classification_of(signature, wanted)
            if found is not None:
                return _of_signature(path, loaded, name, *found)
    known = ", ".join(f"{name} {list(s.structured_outputs)}" for name, s in loaded.signatures.items()) or "none"
    raise ValueError(
        f"no signature of {path!r} takes float32 images [B, H, W, C] and gives logits or probabilities [B, classes]; "
        f"its signatures: {known}."
    )


def _classification_of(signature, wanted):
    """Names of the images and of the scores in a signature, `None` if it has none such."""
    inputs = signature.structured_input_signature[1]
    outputs = signature.structured_outputs
    if len(inputs) != 1:
        return None
    (name, spec), *_ = inputs.items()
    if spec.dtype != tf.float32 or spec.shape.rank != 4:
        return None
    names = [n for n, out in outputs.items() if out.dtype.is_floating and out.shape.rank == 2 and wanted in (None, n)]
    return (name, names[0]) if len(names) == 1 else None


def _of_signature(path, loaded, name, images_name, scores_name):
    batch, *shape = loaded.signatures[name].structured_input_signature[1][images_name].shape
    if batch is not None:
        raise ValueError(f"the signature takes batches of {batch} images only; export it with a free batch size.")

    def scores(images):
        # Of what was loaded, without which a signature does not live.
        return tf.cast(loaded.signatures[name](**{images_name: images})[scores_name], tf.float32)

    logits = log_of(scores) if _gives_probabilities(scores, shape) else scores
    sample = np.asarray(scores(tf.zeros((1, *(size or 32 for size in shape)))))
    return Target(
        logits, tuple(shape), sample.shape[-1], f"SavedModel {pathlib.Path(path).name}", certify=_certify_by(loaded),
        fingerprint=_fingerprint_of_files(path),
    )  # fmt: skip


def _fingerprint_of_files(folder):
    paths = sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return sha256_of_files((path.relative_to(folder).as_posix(), path.read_bytes()) for path in paths)


def _certify_by(loaded):
    """The certificates that an export of `serving.export_model` answers with; `None` for another SavedModel."""
    signature = loaded.signatures.get("certify")
    outputs = {"class_ids", "certified_radius", "nearest_cluster", "runner_up_class_ids", "logits", "lipschitz_bound"}
    if signature is None or not outputs <= signature.structured_outputs.keys():
        return None

    def certify(images, batch_size=256):
        batches = [tf.constant(images[i : i + batch_size]) for i in range(0, len(images), batch_size)]
        answers = [{name: np.asarray(value) for name, value in signature(images=batch).items()} for batch in batches]
        found = {name: np.concatenate([answer[name] for answer in answers]) for name in outputs}
        bound = float(found.pop("lipschitz_bound")[0])
        # That of real arithmetic is not exported, and no smaller.
        return Certificate(radius=found["certified_radius"], lipschitz_bound=bound, **found)

    return certify
