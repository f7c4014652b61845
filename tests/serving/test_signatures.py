import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from clustr_keras import ClustrClassifier
from clustr_keras.serving.signatures import Signatures

OUTPUTS = {
    "serving_default": {"class_ids", "class_names", "probabilities", "certified_radius", "is_valid"},
    "certify_at": {"class_ids", "is_certified", "certified_radius", "is_valid"},
    "embed": {"embeddings", "is_valid"},
}
PROOF = {"logits", "runner_up_class_ids", "nearest_cluster", "lipschitz_bound"}
OUTPUTS["certify"] = OUTPUTS["serving_default"] | PROOF
OUTPUTS["certify_encoded"] = OUTPUTS["certify"]
TYPES = {
    "class_ids": ("int64", ()),
    "class_names": ("string", ()),
    "probabilities": ("float32", (10,)),
    "certified_radius": ("float32", ()),
    "is_valid": ("bool", ()),
    "is_certified": ("bool", ()),
    "logits": ("float32", (10,)),
    "runner_up_class_ids": ("int64", ()),
    "nearest_cluster": ("int64", ()),
    "lipschitz_bound": ("float32", ()),
    "embeddings": ("float32", (32,)),
}
names = pytest.mark.parametrize("name", sorted(OUTPUTS))


def functions_of(model):
    signatures = Signatures(model.certifier(), model.backbone.input_shape[1:], model.class_names)
    return {
        name: tf.function(function, input_signature=input_signature)
        for name, function, input_signature in signatures.endpoints()
    }


@pytest.fixture(scope="module")
def run(classifier):
    functions = functions_of(classifier)

    def run_signature(name, *inputs):
        tensors = [tf.constant(value, tf.string if value.dtype == object else tf.float32) for value in inputs]
        return {key: value.numpy() for key, value in functions[name](*tensors).items()}

    return run_signature


@pytest.fixture(scope="module")
def images(digits):
    _, (x_test, _) = digits
    return x_test[:24]


def encode(image, format="PNG"):  # noqa: A002
    file = io.BytesIO()
    Image.fromarray(np.uint8(np.round(np.squeeze(image, -1) * 255))).save(file, format)
    return file.getvalue()


def inputs_of(name, images):
    if name == "certify_encoded":
        return (np.array([encode(image) for image in images], object),)
    if name == "certify_at":
        return images, np.full(len(images), 0.1, "float32")
    return (images,)


@names
@pytest.mark.parametrize("count", [0, 1, 5])
def test_every_output_has_the_batch_for_its_first_axis(run, images, name, count):
    outputs = run(name, *inputs_of(name, images[:count]))
    assert set(outputs) == OUTPUTS[name]
    for key, value in outputs.items():
        dtype, shape = TYPES[key]
        assert value.shape == (count, *shape), key
        assert value.dtype == (object if dtype == "string" else dtype), key
        # REST wraps outputs of such a name in base64.
        assert not key.endswith("_bytes")


def test_the_answers_are_those_of_certify_and_embed(classifier, run, images):
    certificate = classifier.certify(images)
    outputs = run("certify", images)
    assert_array_equal(outputs["class_ids"], certificate.class_ids)
    assert_array_equal(outputs["nearest_cluster"], certificate.nearest_cluster)
    assert_array_equal(outputs["runner_up_class_ids"], certificate.runner_up_class_ids)
    assert_allclose(outputs["certified_radius"], certificate.certified_radius, atol=1e-5)
    assert_allclose(outputs["logits"], certificate.logits, atol=1e-5)
    assert_array_equal(outputs["lipschitz_bound"], np.float32(certificate.lipschitz_bound))
    expected_names = [classifier.class_names[class_id].encode() for class_id in certificate.class_ids]
    assert outputs["class_names"].tolist() == expected_names
    assert outputs["is_valid"].all()
    assert_allclose(run("embed", images)["embeddings"], classifier.embed(images), atol=1e-5)


def test_the_answers_agree_across_signatures_and_within_themselves(run, images):
    certified = run("certify", images)
    for name in ("serving_default", "certify_at"):
        outputs = run(name, *inputs_of(name, images))
        for key in OUTPUTS[name] & OUTPUTS["certify"]:
            assert_array_equal(outputs[key], certified[key], err_msg=f"{name}: {key}")
    order = np.argsort(-certified["logits"], axis=1)
    assert_array_equal(order[:, 0], certified["class_ids"])
    assert_array_equal(order[:, 1], certified["runner_up_class_ids"])
    assert_array_equal(certified["nearest_cluster"] // 2, certified["class_ids"])
    assert (certified["certified_radius"] <= certified["logits"].max(axis=1)).all()
    assert (certified["certified_radius"] > 0).any()


def test_probabilities_are_the_softmax_of_the_tempered_logits(classifier, run, images):
    outputs = run("certify", images)
    tempered = classifier.head.temperature * outputs["logits"].astype("float64")
    expected = np.exp(tempered) / np.exp(tempered).sum(axis=1, keepdims=True)
    assert_allclose(outputs["probabilities"], expected, rtol=1e-4, atol=1e-7)
    assert_array_equal(outputs["probabilities"].argmax(1), outputs["class_ids"])


def test_the_most_probable_class_is_the_answer_at_a_near_tie_too():
    inputs = keras.Input((1, 1, 1))
    model = ClustrClassifier(keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Flatten()(inputs))), 2)
    model.backbone.layers[-1].set_weights([np.ones((1, 1)), np.zeros(1)])
    model.head.centers.assign([[[-1.0]], [[1.0]]])
    images = np.float32([0.5, 1e-3, 1e-6, 1e-9, 1e-12, 0.0]).reshape(-1, 1, 1, 1)
    outputs = functions_of(model)["serving_default"](images)
    assert_array_equal(outputs["class_ids"][:5], 1)
    assert_array_equal(outputs["probabilities"].numpy().argmax(1), outputs["class_ids"])


INVALID = {
    "NaN": np.nan,
    "infinite": np.inf,
    "minus infinite": -np.inf,
    "just below 0": -np.finfo("float32").tiny,
    "below 0": -0.5,
    "just above 1": np.nextafter(np.float32(1), np.float32(2)),
    "above 1": 255.0,
}
MASKED = {
    "class_ids": -1,
    "class_names": b"",
    "probabilities": 0,
    "certified_radius": 0,
    "is_valid": False,
    "is_certified": False,
    "logits": 0,
    "embeddings": 0,
    "runner_up_class_ids": -1,
    "nearest_cluster": -1,
}


@pytest.mark.parametrize("name", ["serving_default", "certify", "certify_at", "embed"])
@pytest.mark.parametrize("value", INVALID.values(), ids=INVALID.keys())
def test_an_invalid_image_is_masked_and_its_neighbors_stay_as_they_are_bit_for_bit(run, images, name, value):
    bad = images.copy()
    bad[3, 7, 7, 0] = bad[20, 0, 0, 0] = value
    before, after = run(name, *inputs_of(name, images)), run(name, *inputs_of(name, bad))
    is_bad = np.isin(np.arange(24), [3, 20])
    assert_array_equal(after["is_valid"], ~is_bad)
    for key in before:
        assert_array_equal(after[key][~is_bad], before[key][~is_bad], err_msg=key)
        if key in MASKED:
            assert (after[key][is_bad] == MASKED[key]).all(), key


def test_a_radius_of_0_certifies_no_invalid_image(run):
    outputs = run("certify_at", np.full((2, 8, 8, 1), np.nan, "float32"), np.float32([0.0, -1.0]))
    assert not outputs["is_certified"].any()


def test_the_ends_of_the_range_are_valid(run, images):
    ends = images[:3].copy()
    ends[0], ends[1], ends[2] = 0.0, 1.0, -0.0
    outputs = run("certify", ends)
    assert outputs["is_valid"].all()
    assert (outputs["class_ids"] >= 0).all()


@pytest.fixture(scope="module")
def of_any_shape(classifier):
    """Endpoints traced for any shape, so that nothing but they themselves check."""
    signatures = Signatures(classifier.certifier(), (8, 8, 1), classifier.class_names)
    return {
        name: tf.function(function, input_signature=[tf.TensorSpec(None, tf.float32)] * len(specs))
        for name, function, specs in signatures.endpoints()
        if name != "certify_encoded"
    }


@pytest.mark.parametrize("name", ["serving_default", "certify", "certify_at", "embed"])
@pytest.mark.parametrize("shape", [(2, 8, 7, 1), (2, 4, 16, 1), (2, 64, 1, 1), (2, 8, 8, 3), (8, 8, 1), (2, 64)])
def test_images_of_another_size_are_an_error(of_any_shape, name, shape):
    """[4, 16] has 64 pixels too."""
    inputs = [tf.fill(shape, 0.5)] + ([tf.fill([shape[0]], 0.1)] if name == "certify_at" else [])
    with pytest.raises(tf.errors.InvalidArgumentError):
        of_any_shape[name](*inputs)


def test_certified_at_a_radius_up_to_the_certified_one(run, images):
    radius = run("certify", images)["certified_radius"]
    at = run("certify_at", images, radius)["is_certified"]
    below = run("certify_at", images, np.nextafter(radius, np.float32(-1)))["is_certified"]
    above = run("certify_at", images, np.nextafter(radius, np.float32(2)))["is_certified"]
    assert at.all()
    assert_array_equal(below, radius > 0)
    assert not above.any()


@pytest.mark.parametrize("radius", [-1e-30, -1.0, np.nan, np.inf, -np.inf])
def test_what_is_no_radius_certifies_nothing_and_changes_nothing_else(run, images, radius):
    asked = np.full(24, 1e-3, "float32")
    before = run("certify_at", images, asked)
    asked[::2] = radius
    after = run("certify_at", images, asked)
    assert not after["is_certified"][::2].any()
    assert_array_equal(after["is_certified"][1::2], before["is_certified"][1::2])
    for key in ("class_ids", "certified_radius", "is_valid"):
        assert_array_equal(after[key], before[key])


@pytest.mark.parametrize("shape", [(), (1,), (23,), (25,), (24, 1), (1, 24)])
def test_a_radius_of_another_shape_is_an_error(of_any_shape, images, shape):
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
        of_any_shape["certify_at"](tf.constant(images), tf.fill(shape, 0.1))


def test_an_encoded_image_is_answered_like_its_pixels(run, images):
    files = np.array([encode(image) for image in images], object)
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])[..., None].astype("float32") / 255
    encoded, plain = run("certify_encoded", files), run("certify", pixels)
    for key in OUTPUTS["certify"]:
        assert_array_equal(encoded[key], plain[key], err_msg=key)
    assert encoded["is_valid"].all()


def test_a_file_that_is_no_image_is_masked_and_its_neighbors_stay_as_they_are(run, images):
    files = [encode(image) for image in images[:6]]
    before = run("certify_encoded", np.array(files, object))
    wrong_size = encode(np.zeros((9, 8, 1)))
    spoilt = [files[0], b"", files[2], files[3][:-30], wrong_size, files[5]]
    after = run("certify_encoded", np.array(spoilt, object))
    assert_array_equal(after["is_valid"], [True, False, True, False, False, True])
    for key in before:
        assert_array_equal(after[key][[0, 2, 5]], before[key][[0, 2, 5]], err_msg=key)
        if key in MASKED:
            assert (after[key][[1, 3, 4]] == MASKED[key]).all(), key
