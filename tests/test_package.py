import subprocess
import sys

import pytest

import clustr_keras


def run(code):
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", clustr_keras.__all__)
def test_every_public_name_is_there(name):
    assert getattr(clustr_keras, name).__doc__
    assert name in dir(clustr_keras)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Missing'"):
        _ = clustr_keras.Missing


def test_importing_the_package_imports_neither_keras_nor_tensorflow():
    done = run(
        "import sys, clustr_keras; _ = clustr_keras.data.load, clustr_keras.data.load_digits; "
        "print([m for m in ('keras', 'tensorflow') if m in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("module", ["lipschitz", "heads", "training", "evaluation", "lipschitz.bounds", "certificates"])
def test_every_module_can_be_the_first_import(module):
    done = run(
        f"import clustr_keras.{module}, keras; "
        "print(keras.saving.get_registered_object('clustr_keras>ClustrClassifier').__name__)"
    )
    assert done.stdout.strip() == "ClustrClassifier", done.stderr


@pytest.mark.parametrize("order", ["import clustr_keras, keras", "import keras, clustr_keras"])
def test_a_saved_model_loads_whichever_import_comes_first(order, classifier, tmp_path):
    classifier.save(tmp_path / "model.keras")
    done = run(f"{order}; print(type(keras.models.load_model({str(tmp_path / 'model.keras')!r})).__name__)")
    assert done.stdout.strip() == "ClustrClassifier", done.stderr
