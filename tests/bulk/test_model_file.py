import json
import zipfile

import keras
import pytest

from clustr_keras.bulk.model_file import image_shape_of


def test_a_plain_file_of_ours_says_what_it_takes(saved):
    assert image_shape_of(str(saved)) == (8, 8, 1)


def test_an_export_with_a_certificate_says_what_it_takes(tmp_path):
    card = {"image_shape": [8, 8, 1], "certificate": {"norm": "l_2"}}
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra" / "model_card.json").write_text(json.dumps(card))
    assert image_shape_of(str(tmp_path)) is None
    (tmp_path / "saved_model.pb").write_bytes(b"")
    assert image_shape_of(str(tmp_path)) == (8, 8, 1)
    (tmp_path / "assets.extra" / "model_card.json").write_text(json.dumps(card | {"certificate": None}))
    assert image_shape_of(str(tmp_path)) is None


@pytest.mark.parametrize("content", [b"", b"no archive", {"registered_name": None}, {"config": {}}, []])
def test_what_is_not_plain_has_to_be_loaded(content, tmp_path):
    path = tmp_path / "model.keras"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", json.dumps(content))
    assert image_shape_of(str(path)) is None


def test_another_model_has_to_be_loaded(tmp_path):
    keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()]).save(tmp_path / "model.keras")
    assert image_shape_of(str(tmp_path / "model.keras")) is None
    assert image_shape_of(str(tmp_path / "nothing.keras")) is None
