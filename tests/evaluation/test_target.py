import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

from clustr_keras import ClustrClassifier
from clustr_keras.attacks import ProjectedGradientDescent, margin
from clustr_keras.backbones import lipschitz_mlp
from clustr_keras.evaluation.suite import attack_suite
from clustr_keras.evaluation.target import Target, as_target
from clustr_keras.serving import export_model

SHAPE = (6, 6, 1)


def images_of(count=10):
    return np.random.default_rng(0).uniform(size=(count, *SHAPE)).astype("float32")


def network(*last):
    inputs = keras.Input(SHAPE)
    x = keras.layers.Dense(8, "relu")(keras.layers.Flatten()(inputs))
    for layer in last:
        x = layer(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize(
    "last",
    [
        [keras.layers.Dense(3, "softmax")],
        [keras.layers.Dense(3), keras.layers.Softmax()],
        [keras.layers.Dense(3), keras.layers.Activation("softmax")],
    ],
    ids=["activation", "Softmax", "Activation"],
)
def test_a_softmax_at_the_end_is_taken_off(last):
    model = network(*last)
    class_ids, logits = as_target(model).predict(images_of())
    assert_allclose(tf.nn.softmax(logits), model.predict(images_of(), verbose=0), atol=1e-6)
    assert not np.allclose(logits.sum(axis=-1), 1.0)
    assert_array_equal(class_ids, model.predict(images_of(), verbose=0).argmax(-1))


@pytest.mark.parametrize(
    "last", [[keras.layers.Dense(3, "sigmoid")], [keras.layers.Dense(3), keras.layers.Activation("sigmoid")]]
)
def test_a_sigmoid_at_the_end_is_taken_off(last):
    model = network(*last)
    _, logits = as_target(model).predict(images_of())
    assert_allclose(tf.sigmoid(logits), model.predict(images_of(), verbose=0), atol=1e-6)
    assert logits.min() < 0.0


def test_logits_stay_as_they_are_in_sequential_models_too():
    model = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(4)])
    target = as_target(model)
    assert (target.image_shape, target.num_classes) == (SHAPE, 4)
    assert_allclose(target.predict(images_of())[1], model.predict(images_of(), verbose=0), atol=1e-6)


class Probabilities(keras.Model):
    """Gives probabilities in a way that cannot be seen from its layers."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, images):
        return keras.ops.softmax(self.dense(keras.ops.reshape(images, (-1, 36))))


def test_hidden_probabilities_become_their_logarithms():
    model = Probabilities()
    expected = model.predict(images_of(), verbose=0)
    with pytest.raises(ValueError, match=r"must take images \[B, H, W, C\]"):
        as_target(network(keras.layers.Reshape((2, 4))))
    inputs = keras.Input(SHAPE)
    target = as_target(keras.Model(inputs, model(inputs)))
    assert_allclose(target.predict(images_of())[1], np.log(expected), atol=1e-5)


@pytest.fixture(scope="module")
def classifier():
    return ClustrClassifier(lipschitz_mlp(SHAPE, (16, 8)), num_classes=3, clusters_per_class=2)


def test_of_a_clustr_classifier_the_deployed_network_is_attacked(classifier):
    target = as_target(classifier)
    certificate = classifier.certify(images_of())
    class_ids, logits = target.predict(images_of())
    assert_array_equal(class_ids, certificate.class_ids)
    assert_allclose(logits, certificate.logits, atol=1e-6)
    assert_allclose(target.certify(images_of()).certified_radius, certificate.certified_radius)
    assert target.embed(images_of()).shape == (10, 8)
    assert target.centers.shape == (3, 2, 8)


@pytest.mark.parametrize("scores", ["log", "paper"])
def test_it_may_be_attacked_through_other_scores(classifier, scores):
    target = as_target(classifier, scores)
    expected = getattr(classifier.head, f"{scores}_scores")(classifier.embed(images_of()))
    assert_allclose(target.predict(images_of())[1], expected, atol=1e-5)
    assert target.certify is None


def test_a_backbone_without_a_bound_is_attacked_as_it_is():
    inputs = keras.Input(SHAPE)
    x = keras.layers.LayerNormalization()(keras.layers.Dense(8)(keras.layers.Flatten()(inputs)))
    model = ClustrClassifier(keras.Model(inputs, x), num_classes=3)
    target = as_target(model)
    assert target.certify is None
    assert_allclose(target.predict(images_of())[1], model.predict(images_of(), verbose=0), atol=1e-6)


def test_saved_models_are_attacked_through_their_logits(classifier, tmp_path):
    path = export_model(classifier, tmp_path / "clustr")
    target = as_target(path)
    logits = classifier.certify(images_of()).logits
    assert_allclose(target.predict(images_of())[1], logits, atol=1e-5)
    assert (target.image_shape, target.num_classes) == (SHAPE, 3)
    x = tf.constant(images_of())
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(target.logits(x)[:, 0])
    assert np.abs(tape.gradient(loss, x)).max() > 0


def test_an_exports_own_certificates_are_read(classifier, tmp_path):
    served = as_target(export_model(classifier, tmp_path)).certify(images_of(300))
    certificate = classifier.certify(images_of(300))
    assert (certificate.certified_radius > 0).any()
    assert_array_equal(served.class_ids, certificate.class_ids)
    assert_allclose(served.certified_radius, certificate.certified_radius, atol=1e-5)
    assert served.lipschitz_bound == np.float32(certificate.lipschitz_bound)


def test_saved_models_of_keras_are_attacked_through_their_probabilities(tmp_path):
    model = network(keras.layers.Dense(3, "softmax"))
    model.export(tmp_path / "m", verbose=False)
    logits = as_target(str(tmp_path / "m")).predict(images_of())[1]
    assert_allclose(logits, np.log(model.predict(images_of(), verbose=0)), atol=1e-5)


def test_what_is_no_classifier_is_refused(classifier, tmp_path):
    with pytest.raises(ValueError, match="no SavedModel at"):
        as_target(tmp_path / "none")
    with pytest.raises(ValueError, match="got a int"):
        as_target(3)
    with pytest.raises(ValueError, match="scores must be one of"):
        as_target(classifier, "votes")
    with pytest.raises(ValueError, match="is for a ClustrClassifier"):
        as_target(network(keras.layers.Dense(3)), "log")

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 5), tf.float32)])
        def __call__(self, x):
            return x

    module = Module()
    tf.saved_model.save(module, str(tmp_path / "no_images"), signatures=module.__call__)
    with pytest.raises(ValueError, match=r"no signature of .* its signatures: serving_default"):
        as_target(tmp_path / "no_images")


def test_a_target_is_one(classifier):
    target = Target(lambda images: images[:, 0, 0], (4, 4, 2), 2, "by hand")
    assert as_target(target) is target
    broken = Target(lambda images: images[:, 0, 0] / 0.0, (4, 4, 2), 2, "by hand")
    with pytest.raises(ValueError, match="not finite"):
        broken.predict(np.zeros((1, 4, 4, 2), "float32"))


def save(model, path, batch):
    export, spec = tf.Module(), tf.TensorSpec([batch, *SHAPE], tf.float32)
    export.model = model
    export.serve = tf.function(lambda images: model(images), input_signature=[spec])
    tf.saved_model.save(export, path, signatures={"serving_default": export.serve})


def test_models_are_told_apart_by_weights_configuration_and_source(tmp_path):
    model = network(keras.layers.Dense(3))
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    assert as_target(model).fingerprint == as_target(copy).fingerprint is not None
    copy.weights[-1].assign(np.ones(3))
    assert as_target(model).fingerprint != as_target(copy).fingerprint
    save(model, tmp_path / "1", None)
    first = as_target(tmp_path / "1")
    assert first.name == "SavedModel 1"
    (tmp_path / "1" / "assets" / "more").write_text("changed")
    assert as_target(tmp_path / "1").fingerprint != first.fingerprint


def test_under_mixed_precision_logits_are_float32():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = network(keras.layers.Dense(3))
    finally:
        keras.config.set_dtype_policy("float32")
    assert as_target(model).predict(images_of())[1].dtype == "float32"


def test_one_score_is_not_enough():
    with pytest.raises(ValueError, match="at least 2 classes"):
        as_target(network(keras.layers.Dense(1, "sigmoid")))


def test_a_signature_of_one_image_at_a_time_is_refused(tmp_path):
    save(network(keras.layers.Dense(3)), tmp_path, 1)
    with pytest.raises(ValueError, match="batches of 1 images only"):
        as_target(tmp_path)


@pytest.mark.parametrize("norm", ["l_2", "l_inf"])
def test_attacks_that_differ_in_numbers_share_a_loop_and_find_what_each_finds_alone(norm):
    model, images = network(keras.layers.Dense(3)), images_of()
    target, traced = as_target(model), []
    labels, _ = target.predict(images)

    def loss(labels, logits):
        traced.append(norm)
        return margin(labels, logits)

    counts = []
    for steps in (3, 5):
        settings = {"steps": steps, "restarts": 2, "loss": loss, "seed": steps}
        found = target.pgd(norm, **settings)(images, labels, 0.05 * steps)
        counts.append(len(traced))
        alone = ProjectedGradientDescent(model, norm, **settings)(images, labels, 0.05 * steps)
        counts.append(len(traced))
        assert_allclose(found.adversarial, alone.adversarial, atol=1e-6)
    assert counts[0] < counts[1] == counts[2] < counts[3]


def test_a_batch_of_one_is_attacked_after_batches_of_other_sizes():
    target, images = as_target(network(keras.layers.Dense(3))), images_of()
    for batch_size in (10, 4, 3):  # from then on the graph is that of any number of rows
        labels, _ = target.predict(images, batch_size)
    results = [
        attack_suite(target, "l_2", ["pgd-margin", "square"], batch_size)[name](images[:2], labels[:2], 0.3)
        for batch_size in (1, 16)
        for name in ("pgd-margin", "square")
    ]
    assert_array_equal(results[0].is_flipped, results[2].is_flipped)
    assert (results[1].distance <= 0.3).all()
