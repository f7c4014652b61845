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


MODULES = ("lipschitz", "heads", "training", "evaluation", "lipschitz.bounds", "certificates")
# Each in a process of its own; Keras and TensorFlow, which take long, are there before.
FIRST_IMPORTS = """
import importlib, os, sys
import keras, tensorflow
for module in sys.argv[1:]:
    child = os.fork()
    if not child:
        importlib.import_module(f"clustr_keras.{module}")
        assert keras.saving.get_registered_object("clustr_keras>ClustrClassifier").__name__ == "ClustrClassifier"
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print(module)
"""


def test_every_module_can_be_the_first_import():
    command = [sys.executable, "-c", FIRST_IMPORTS, *MODULES]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("order", ["import clustr_keras, keras", "import keras, clustr_keras"])
def test_a_saved_model_loads_whichever_import_comes_first(order, classifier, tmp_path):
    classifier.save(tmp_path / "model.keras")
    done = run(f"{order}; print(type(keras.models.load_model({str(tmp_path / 'model.keras')!r})).__name__)")
    assert done.stdout.strip() == "ClustrClassifier", done.stderr
