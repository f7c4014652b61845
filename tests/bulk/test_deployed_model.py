import io

import numpy as np
import PIL.Image
import pytest

from clustr_keras.bulk.deployed_model import DeployedModel
from clustr_keras.bulk.examples import Examples
from clustr_keras.bulk.inputs import find_input
from clustr_keras.bulk.rows import SCHEMA, table_of
from clustr_keras.data import as_floats


@pytest.fixture(scope="module")
def deployed(saved):
    return DeployedModel(str(saved), batch_size=64)


def rows_of(model, examples):
    table = table_of(examples, model.certify(examples), model.class_names)
    assert table.schema == SCHEMA
    return table.to_pydict()


def of_images(images):
    return Examples([str(row) for row in range(len(images))], [None] * len(images), images=images)


def test_rows_are_those_of_certify(deployed, classifier, digits):
    images, _ = digits[1]
    certificate = classifier.certify(images[:320], batch_size=64)
    rows = rows_of(deployed, of_images(images[:320]))
    for column, of_certificate in {
        "class_id": "class_ids",
        "runner_up_class_id": "runner_up_class_ids",
        "nearest_cluster": "nearest_cluster",
        "certified_radius": "certified_radius",
        "radius": "radius",
    }.items():
        np.testing.assert_array_equal(rows[column], getattr(certificate, of_certificate))
    assert rows["class_name"] == [str(class_id) for class_id in certificate.class_ids]


def test_a_row_does_not_depend_on_how_many_there_are(deployed, digits):
    images, _ = digits[1]
    many, few = rows_of(deployed, of_images(images[:70])), rows_of(deployed, of_images(images[:3]))
    assert few["certified_radius"] == many["certified_radius"][:3]


def test_invalid_images_say_so_as_a_server_does(deployed, digits):
    images = digits[1][0][:4].copy()
    expected = rows_of(deployed, of_images(images))
    images[1, 0, 0, 0], images[2, 7, 7, 0] = np.nan, 1.5
    rows = rows_of(deployed, of_images(images))
    assert rows["is_valid"] == [True, False, False, True]
    for column, value in {"class_id": -1, "class_name": "", "runner_up_class_id": -1, "nearest_cluster": -1}.items():
        assert rows[column] == [expected[column][0], value, value, expected[column][3]]
    assert rows["certified_radius"] == [expected["certified_radius"][0], 0.0, 0.0, expected["certified_radius"][3]]
    assert rows["error"] == [None, *["a pixel is not finite, or leaves [0, 1]"] * 2, None]


def test_broken_files_leave_their_neighbors_alone(deployed, classifier, photos):
    folder, pixels = photos
    source = find_input(str(folder))
    ((count, place),) = source.pieces(100)
    rows = rows_of(deployed, source.read(place, count))
    row_of = {name: row for row, name in enumerate(rows["id"])}
    valid = [row_of[f"{'ab'[index % 2]}/{index}.png"] for index in range(8)]
    assert [row for row, is_valid in enumerate(rows["is_valid"]) if is_valid] == sorted(valid)
    certificate = classifier.certify(as_floats(pixels))
    np.testing.assert_allclose(np.take(rows["certified_radius"], valid), certificate.certified_radius, atol=1e-6)
    np.testing.assert_array_equal(np.take(rows["class_id"], valid), certificate.class_ids)
    assert rows["error"][row_of["b/large.png"]] == "no PNG or JPEG that decodes to 8 x 8 pixels of 1 channels"
    assert all((error is None) == is_valid for error, is_valid in zip(rows["error"], rows["is_valid"], strict=True))


def test_resizing_is_asked_for(saved, photos):
    folder, _ = photos
    large = Examples(["large"], [None], images=[(folder / "b" / "large.png").read_bytes()])
    assert rows_of(DeployedModel(str(saved), resize=True, batch_size=4), large)["is_valid"] == [True]


def test_images_of_too_many_pixels_say_so(saved, photos):
    folder, _ = photos
    files = {form: io.BytesIO() for form in ("PNG", "JPEG")}
    for form, file in files.items():
        PIL.Image.fromarray(np.zeros((9, 10), "uint8")).save(file, form)
    names = [*files, "small", "text"]
    encoded = [*(file.getvalue() for file in files.values()), (folder / "a" / "0.png").read_bytes(), b"text"]
    examples = Examples(names, [None] * 4, images=encoded)
    model = DeployedModel(str(saved), resize=True, batch_size=4, max_pixels=89)
    too_many = "90 pixels; no more than 89 are decoded, see --max-pixels"
    assert rows_of(model, examples)["error"] == [too_many, too_many, None, "no PNG or JPEG that can be decoded"]
    model = DeployedModel(str(saved), resize=True, batch_size=4, max_pixels=90)
    assert rows_of(model, examples)["is_valid"] == [True, True, True, False]


def test_an_export_gives_the_rows_of_its_model(deployed, classifier, photos, tmp_path):
    pytest.importorskip("apache_beam", reason="slow; make test-beam runs it")
    from clustr_keras.serving import export_model

    exported = DeployedModel(str(export_model(classifier, tmp_path / "serving")), batch_size=64)
    assert (exported.image_shape, exported.class_names) == (deployed.image_shape, deployed.class_names)
    ((count, place),) = find_input(str(photos[0])).pieces(100)
    examples = find_input(str(photos[0])).read(place, count)
    expected, rows = rows_of(deployed, examples), rows_of(exported, examples)
    assert rows.pop("radius") == [None] * len(examples)
    del expected["radius"]
    assert rows == expected


def test_models_that_cannot_certify_are_refused(saved, tmp_path):
    import keras

    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    plain.save(tmp_path / "plain.keras")
    with pytest.raises(ValueError, match="must hold a ClustrClassifier"):
        DeployedModel(str(tmp_path / "plain.keras"))
    with pytest.raises(ValueError, match=r"it holds plain\.keras"):
        DeployedModel(str(tmp_path))
    with pytest.raises(ValueError, match="were settled when"):
        DeployedModel(str(tmp_path), method="union")


def test_nothing_certified_is_null():
    answers = {
        "class_ids": np.array([1]),
        "runner_up_class_ids": np.array([0]),
        "nearest_cluster": np.array([1]),
        "radius": np.float32([0.5]),
        "is_valid": np.array([True]),
        "errors": [None],
    }
    table = table_of(Examples(["x"], [3], images=np.zeros((1, 2, 2, 1))), answers, ["a", "b"])
    assert table.column("certified_radius").null_count == 1
    assert table.slice(0, 1).select(["label", "class_name", "radius"]).to_pylist() == [
        {"label": 3, "class_name": "b", "radius": 0.5}
    ]
