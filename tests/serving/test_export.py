import dataclasses
import datetime
import io
import json
import shutil
import stat
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from support.png import png
from support.small_classifiers import plain_classifier, small_classifier

from clustr_keras.serving import export as export_module
from clustr_keras.serving import export_model, verification
from clustr_keras.serving.loaded_model import LoadedModel
from clustr_keras.serving.signatures import Signatures
from clustr_keras.serving.verification import SavedModelSession, verify_export
from clustr_keras.serving.warmup import read_warmup, replay_warmup, write_warmup

SIGNATURES = ("certify", "certify_at", "certify_encoded", "embed", "serving_default")
FACTS = {"data_set": "digits", "clean_accuracy": 0.97, "certified_accuracy": {"0.3": 0.84}}


@pytest.fixture(scope="module")
def images(digits):
    _, (x_test, _) = digits
    return x_test[:32]


@pytest.fixture
def verified_here(monkeypatch):
    """Runs what `verify_export` runs in a fresh process in this one, which does not take seconds to start."""

    def run(command, **_):
        *_, folder, scratch = command
        verification._main(folder, scratch)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(verification.subprocess, "run", run)


@pytest.fixture(scope="module")
def exported(classifier, tmp_path_factory):
    return export_model(classifier, tmp_path_factory.mktemp("serving") / "clustr", facts=FACTS)


@pytest.fixture(scope="module")
def in_a_session(exported):
    return SavedModelSession(exported)


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(str(exported))


def inputs_of(name, images):
    if name == "certify_encoded":
        return {"image_bytes": np.array([png(image) for image in images], object)}
    radius = {"radius": np.full(len(images), 0.1, "float32")} if name == "certify_at" else {}
    return {"images": images, **radius}


def test_a_session_gives_the_classes_and_radii_of_the_live_model(classifier, in_a_session, images):
    certificate, outputs = classifier.certify(images), in_a_session("certify", images=images)
    assert_array_equal(outputs["class_ids"], certificate.class_ids)
    assert_allclose(outputs["certified_radius"], certificate.certified_radius, rtol=0, atol=1e-5)
    assert (outputs["certified_radius"] > 0).mean() > 0.5
    assert_allclose(outputs["logits"], certificate.logits, rtol=0, atol=1e-5)
    assert [name.decode() for name in outputs["class_names"]] == [str(i) for i in certificate.class_ids]


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_loaded_signature_and_a_session_give_the_same(in_a_session, loaded, images, name):
    inputs = inputs_of(name, images)
    by_session = in_a_session(name, **inputs)
    by_load = loaded.signatures[name](**{key: tf.constant(value) for key, value in inputs.items()})
    assert set(by_session) == set(by_load)
    for key, value in by_session.items():
        assert_array_equal(value, by_load[key].numpy(), err_msg=key)


def test_the_signatures_are_those_of_the_contract(in_a_session):
    definitions = in_a_session.meta_graph.signature_def
    assert {name for name in definitions if not name.startswith("__")} == set(SIGNATURES)
    for name in SIGNATURES:
        inputs = {"certify_encoded": {"image_bytes"}, "certify_at": {"images", "radius"}}.get(name, {"images"})
        assert set(definitions[name].inputs) == inputs
        assert definitions[name].method_name == "tensorflow/serving/predict"
        for key, info in definitions[name].outputs.items():
            assert not key.endswith("_bytes")
            assert info.tensor_shape.dim[0].size == -1, (name, key)


@pytest.mark.parametrize("name", SIGNATURES)
@pytest.mark.parametrize("count", [0, 1, 7])
def test_batches_of_every_size_are_answered(in_a_session, images, name, count):
    outputs = in_a_session(name, **inputs_of(name, images[:count]))
    assert {len(value) for value in outputs.values()} == {count}


def test_answers_do_not_depend_on_the_batch_size_beyond_rounding(in_a_session, images):
    together = in_a_session("certify", images=images)
    for index in range(4):
        alone = in_a_session("certify", images=images[index : index + 1])
        assert alone["class_ids"] == together["class_ids"][index]
        assert_allclose(alone["certified_radius"][0], together["certified_radius"][index], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in SIGNATURES if name != "certify_encoded"])
@pytest.mark.parametrize("shape", [(4, 16, 1), (64, 1, 1), (9, 8, 1), (8, 8, 3), (64,)])
def test_an_image_of_a_wrong_size_is_an_error_in_a_session(in_a_session, name, shape):
    # [4, 16] has as many pixels as [8, 8]: without a check it would be classified and certified.
    inputs = inputs_of(name, np.full((2, *shape), 0.5, "float32"))
    with pytest.raises(tf.errors.InvalidArgumentError):
        in_a_session(name, **inputs)


@pytest.mark.parametrize("name", [name for name in SIGNATURES if name != "certify_encoded"])
@pytest.mark.parametrize("shape", [(4, 16, 1), (9, 8, 1), (8, 8, 3)])
def test_an_image_of_a_wrong_size_is_an_error_of_a_loaded_signature(loaded, name, shape):
    inputs = inputs_of(name, np.full((2, *shape), 0.5, "float32"))
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
        loaded.signatures[name](**{key: tf.constant(value) for key, value in inputs.items()})


def test_a_file_of_a_wrong_size_is_invalid_in_a_session(in_a_session, images):
    files = np.array([png(images[0]), png(np.full((4, 16, 1), 0.5)), png(images[1])], object)
    assert_array_equal(in_a_session("certify_encoded", image_bytes=files)["is_valid"], [True, False, True])


@pytest.mark.parametrize("shape", [(), (1,), (31,), (32, 1)])
def test_a_radius_of_a_wrong_shape_is_an_error_in_a_session(in_a_session, images, shape):
    with pytest.raises(tf.errors.InvalidArgumentError):
        in_a_session("certify_at", images=images, radius=np.full(shape, 0.1, "float32"))


def test_an_invalid_image_is_masked_in_a_session_and_its_neighbors_stay_bit_for_bit(in_a_session, images):
    bad = images.copy()
    bad[5, 0, 0, 0], bad[9, 7, 7, 0] = np.nan, 1.5
    before, after = in_a_session("certify", images=images), in_a_session("certify", images=bad)
    good = ~np.isin(np.arange(32), [5, 9])
    assert_array_equal(after["is_valid"], good)
    for key in before:
        assert_array_equal(after[key][good], before[key][good], err_msg=key)
    assert_array_equal(after["class_ids"][~good], -1)
    for key in ("certified_radius", "probabilities"):
        assert_array_equal(after[key][~good], 0)


def test_the_method_is_that_of_the_radii(tmp_path):
    keras.utils.set_random_seed(0)
    model = plain_classifier((4, 4, 1), keras.layers.Flatten(), keras.layers.Dense(2), clusters_per_class=5)
    images = np.random.default_rng(0).uniform(0, 1, (200, 4, 4, 1)).astype("float32")
    path = export_model(model, tmp_path, method="nearest")
    outputs = SavedModelSession(path)("certify", images=images)
    nearest, union = model.certify(images, method="nearest"), model.certify(images)
    assert_allclose(outputs["certified_radius"], nearest.certified_radius, rtol=0, atol=1e-5)
    assert (union.certified_radius > nearest.certified_radius + 1e-3).any()
    assert json.loads((path / "assets.extra/model_card.json").read_text())["certificate"]["method"] == "nearest"


def test_a_loaded_keras_file_exports_the_same(classifier, in_a_session, images, tmp_path):
    classifier.save(tmp_path / "model.keras")
    path = export_model(keras.saving.load_model(tmp_path / "model.keras"), tmp_path / "serving")
    again, first = SavedModelSession(path)("certify", images=images), in_a_session("certify", images=images)
    assert_array_equal(again["class_ids"], first["class_ids"])
    assert_allclose(again["certified_radius"], first["certified_radius"], rtol=0, atol=1e-5)


def test_exporting_leaves_the_model_as_it_was(classifier, images, tmp_path):
    weights, before = classifier.get_weights(), classifier.certify(images)
    export_model(classifier, tmp_path)
    for ours, theirs in zip(classifier.get_weights(), weights, strict=True):
        assert_array_equal(ours, theirs)
    for key, value in dataclasses.asdict(before).items():
        assert_array_equal(getattr(classifier.certify(images), key), value)


def test_the_model_card_says_what_the_proof_rests_on(classifier, exported):
    card = json.loads((exported / "assets.extra" / "model_card.json").read_text())
    assert card.items() >= FACTS.items()
    assert card["lipschitz_bound"] == classifier.certify(np.zeros((1, 8, 8, 1), "float32")).lipschitz_bound
    assert 1 - 1e-4 < card["lipschitz_bound"] < 1 + 1e-4
    bounds = [row["bound"] for row in card["lipschitz_table"]]
    assert np.prod(bounds) == pytest.approx(card["lipschitz_bound"], rel=1e-6)
    assert all(row["operation"] and row["how"] for row in card["lipschitz_table"])
    assert "float32" in card["certificate"]["arithmetic"]
    assert "TF32" in card["certificate"]["arithmetic"]
    assert card["certificate"]["method"] == "exact"
    assert card["certificate"]["rounding_slack_subtracted"] is True
    assert "decoded" in card["certificate"]["of_encoded_images"]
    assert card["encoded_images"] == {"max_pixels": 2**24, "resized": False}
    assert card["image_shape"] == [8, 8, 1]
    assert card["class_names"] == list("0123456789")
    assert card["versions"]["tensorflow"] == tf.__version__
    assert card["versions"]["keras"] == keras.__version__
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(card["created"])
    assert datetime.timedelta(seconds=-2) < age < datetime.timedelta(hours=1)


def test_a_version_can_be_read_by_a_server_that_runs_as_another_user(exported):
    for folder in (exported, exported / "variables", exported / "assets.extra"):
        assert stat.S_IMODE(folder.stat().st_mode) & 0o055 == 0o055
    for file in ("saved_model.pb", "assets.extra/model_card.json"):
        assert stat.S_IMODE((exported / file).stat().st_mode) & 0o044 == 0o044


def images_for_the_small():
    return np.random.default_rng(0).uniform(size=(16, 4, 4, 1)).astype("float32")


def test_a_backbone_without_rounding_analysis_is_refused(tmp_path):
    model = plain_classifier((4, 4, 1), keras.layers.Flatten(), keras.layers.Dense(5, activation="tanh"))
    assert np.isfinite(model.certify(np.zeros((1, 4, 4, 1), "float32")).radius).all()
    with pytest.raises(ValueError, match="'my_backbone' has a Lipschitz bound but no analysis"):
        export_model(model, tmp_path / "clustr")
    assert not (tmp_path / "clustr").exists()


def test_a_backbone_without_a_bound_is_refused_and_its_operation_named(tmp_path):
    model = plain_classifier((4, 4, 1), keras.layers.Flatten(), keras.layers.LayerNormalization(name="culprit"))
    with pytest.raises(ValueError, match=r"culprit.*--without-certificate"):
        export_model(model, tmp_path / "clustr")
    assert not (tmp_path / "clustr").exists()


def test_inputs_of_no_fixed_image_size_are_refused(tmp_path):
    model = plain_classifier((16,), keras.layers.Dense(5))
    with pytest.raises(ValueError, match="fixed input"):
        export_model(model, tmp_path / "clustr")
    assert not (tmp_path / "clustr").exists()


@pytest.mark.parametrize(("method", "message"), [("best", "method must be one of"), ("soft", "soft scores")])
def test_an_unknown_or_uncertified_method_is_refused(classifier, tmp_path, method, message):
    with pytest.raises(ValueError, match=message):
        export_model(classifier, tmp_path / "clustr", method=method)
    assert not (tmp_path / "clustr").exists()


def test_color_images_that_are_higher_than_wide_are_exported(tmp_path):
    model = plain_classifier((5, 3, 3), keras.layers.Flatten(), keras.layers.Dense(4))
    run = SavedModelSession(export_model(model, tmp_path))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3, 3), dtype=np.uint8)
    files = []
    for image in pixels:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        files.append(file.getvalue())
    outputs = run("certify_encoded", image_bytes=np.array(files, object))
    certificate = model.certify(pixels.astype("float32") / 255)
    assert outputs["is_valid"].all()
    assert_array_equal(outputs["class_ids"], certificate.class_ids)
    assert_allclose(outputs["certified_radius"], certificate.certified_radius, rtol=0, atol=1e-5)


def test_there_is_a_warmup_request_for_every_signature(exported):
    assert sorted(name for name, _ in read_warmup(exported)) == sorted(SIGNATURES)
    replay_warmup(LoadedModel(exported, 1), exported)


def test_the_warmup_image_is_a_valid_one(exported):
    requests = dict(read_warmup(exported))
    outputs = LoadedModel(exported, 1).run("certify_encoded", requests["certify_encoded"])
    assert outputs["is_valid"].tolist() == [True]


def test_an_export_is_verified_bit_for_bit_in_a_fresh_process(classifier, images, tmp_path):
    path = export_model(classifier, tmp_path, verify_on=images)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def one_ulp_more(values):
    return tf.math.nextafter(values, tf.fill(tf.shape(values), 9.0))


CHANGES = {
    "predict": {"certified_radius": one_ulp_more},
    "certify": {"logits": one_ulp_more},
    "certify_at": {"is_certified": tf.ones_like},
    "certify_encoded": {"class_ids": lambda ids: ids + 1},
    "embed": {"embeddings": one_ulp_more},
}


@pytest.mark.parametrize("method", CHANGES)
def test_an_export_that_answers_otherwise_is_not_published(tmp_path, monkeypatch, verified_here, method):
    right = getattr(Signatures, method)

    def wrong(*args):
        return (answer := right(*args)) | {key: change(answer[key]) for key, change in CHANGES[method].items()}

    write = export_module.write_warmup

    def write_and_undo(*args):
        write(*args)
        monkeypatch.setattr(Signatures, method, right)

    monkeypatch.setattr(Signatures, method, wrong)  # only while it is exported
    monkeypatch.setattr(export_module, "write_warmup", write_and_undo)
    (key,) = CHANGES[method]
    with pytest.raises(ValueError, match=f"{key} of the export's signature .* differs from the live model's"):
        export_model(small_classifier(), tmp_path, verify_on=images_for_the_small())
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_lacks_an_output_is_not_published(tmp_path, monkeypatch, verified_here):
    right, write = Signatures.embed, export_module.write_warmup
    monkeypatch.setattr(Signatures, "embed", lambda *args: {"embeddings": right(*args)["embeddings"]})
    monkeypatch.setattr(
        export_module, "write_warmup", lambda *args: (write(*args), monkeypatch.setattr(Signatures, "embed", right))
    )
    with pytest.raises(ValueError, match=r"signature embed gives \['embeddings'\]"):
        export_model(small_classifier(), tmp_path, verify_on=images_for_the_small())


def test_a_bad_warmup_record_fails_the_verification(classifier, exported, images, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "1")
    write_warmup(copy, [("serving_default", {"images": np.zeros((1, 9, 9, 1), "float32")})])
    signatures = Signatures(classifier.certifier(), (8, 8, 1), classifier.class_names)
    with pytest.raises(ValueError, match="warm-up request 0 fails"):
        verify_export(copy, signatures, images)


@pytest.mark.parametrize("wrong", [np.zeros((2, 9, 8, 1), "float32"), np.full((2, 8, 8, 1), 2.0, "float32")])
def test_images_to_verify_on_are_checked(classifier, tmp_path, wrong):
    with pytest.raises(ValueError, match="verify_on must"):
        export_model(classifier, tmp_path / "new", verify_on=wrong)
    assert not (tmp_path / "new").exists()


def test_a_model_without_a_bound_is_exported_without_a_certificate_if_asked(tmp_path, verified_here):
    model = plain_classifier((4, 4, 1), keras.layers.Flatten(), keras.layers.LayerNormalization())
    x = np.random.default_rng(0).random((6, 4, 4, 1), dtype="float32")
    x[3, 0, 0, 0] = np.nan
    path = export_model(model, tmp_path, certificate=False, verify_on=np.nan_to_num(x))
    run = SavedModelSession(path)
    names = {name for name in run.meta_graph.signature_def if not name.startswith("__")}
    assert names == {"serving_default", "embed"}
    outputs = run("serving_default", images=x)
    assert set(outputs) == {"class_ids", "class_names", "probabilities", "is_valid"}
    expected = np.argmax(model.predict(np.nan_to_num(x), verbose=0), axis=-1)
    expected[3] = -1
    assert_array_equal(outputs["class_ids"], expected)
    assert_array_equal(np.argmax(outputs["probabilities"], axis=-1)[:3], expected[:3])
    card = json.loads((path / "assets.extra" / "model_card.json").read_text())
    assert (card["lipschitz_bound"], card["certificate"]) == (None, None)


def test_encoded_images_are_resized_only_if_asked(classifier, exported, tmp_path):
    large = np.random.default_rng(0).integers(0, 256, (16, 24, 1), dtype=np.uint8)
    file = np.array([png(large / 255.0)], object)
    assert SavedModelSession(exported)("certify_encoded", image_bytes=file)["is_valid"].tolist() == [False]
    path = export_model(classifier, tmp_path, resize=True)
    outputs = SavedModelSession(path)("certify_encoded", image_bytes=file)
    resized = tf.image.resize(large / np.float32(255), (8, 8), antialias=True).numpy()[None]
    certificate = classifier.certify(np.clip(resized, 0, 1))
    assert outputs["class_ids"] == certificate.class_ids
    assert_allclose(outputs["certified_radius"], certificate.certified_radius, atol=1e-5)
    assert json.loads((path / "assets.extra" / "model_card.json").read_text())["encoded_images"]["resized"] is True


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_images_that_no_file_holds_are_exported_without_the_signature_for_files(tmp_path, channels):
    model = plain_classifier((4, 4, channels), keras.layers.Flatten(), keras.layers.Dense(3))
    run = SavedModelSession(export_model(model, tmp_path))
    assert "certify" in run.meta_graph.signature_def
    assert "certify_encoded" not in run.meta_graph.signature_def
