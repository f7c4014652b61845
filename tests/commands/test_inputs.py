import contextlib
import json
import sys

import keras
import pytest
from support.command_line import clustr

from clustr_keras import ClustrClassifier
from clustr_keras.commands.inputs import import_modules

HALVED = """
import keras
from clustr_keras import lipschitz

@keras.saving.register_keras_serializable(package="test_inputs")
class Halved(keras.layers.Layer):
    def call(self, inputs):
        return 0.5 * inputs

@lipschitz.register(Halved, one_lipschitz=True)
def _of_halved(call):
    return lipschitz.LayerBound(0.5, "half of the identity", lipschitz.Rounding(absolute=1e-30))
"""


def test_a_model_with_layers_of_a_users_file_is_certified(tmp_path):
    (tmp_path / "halved_layers.py").write_text(HALVED)
    import_modules([str(tmp_path / "halved_layers.py")])
    halved = sys.modules["halved_layers"].Halved()
    backbone = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), halved])
    ClustrClassifier(backbone, 10).save(tmp_path / "mine.keras")

    arguments = ("certify", "--model", "mine.keras", "--examples", 5, "--json")
    code, out, err = clustr(*arguments, cwd=tmp_path)
    assert (code, out) == (2, "")
    assert "holds a Halved, which nothing here knows. Say --import" in err
    code, out, err = clustr(*arguments, "--import", "halved_layers.py", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert json.loads(out)["lipschitz_bound"] == pytest.approx(0.5, rel=1e-4)


def test_modules_are_found_from_the_current_folder(tmp_path):
    (tmp_path / "mine_of_test_inputs").mkdir()
    (tmp_path / "mine_of_test_inputs" / "blocks.py").write_text("KNOWN = 1")
    before = sys.path.copy()
    with contextlib.chdir(tmp_path):
        import_modules(["mine_of_test_inputs.blocks"])
    assert sys.modules["mine_of_test_inputs.blocks"].KNOWN == 1
    assert sys.path == before


def test_what_is_missing_is_named(tmp_path):
    (tmp_path / "needing.py").write_text("import nothing_of_that_name")
    with pytest.raises(ValueError, match="--import nowhere: there is no such module or file"):
        import_modules(["nowhere"])
    with pytest.raises(ModuleNotFoundError, match="nothing_of_that_name"):
        import_modules([str(tmp_path / "needing.py")])
