import json
import math
import pathlib

import numpy as np
import pytest

from clustr_keras.results_file import as_json, write_json


def no_constant(name):
    raise AssertionError(f"{name} is no JSON")


def test_what_is_not_finite_is_null():
    figures = {
        "floats": [1.5, math.inf, -math.inf, math.nan],
        "arrays": (np.array([[1.0, np.nan]], "float32"), np.float64("inf"), np.int64(3), np.bool_(True)),
        "path": pathlib.PurePosixPath("runs/a"),
        0.5: None,
    }
    expected = {
        "floats": [1.5, None, None, None],
        "arrays": [[[1.0, None]], None, 3, True],
        "path": "runs/a",
        "0.5": None,
    }
    assert json.loads(as_json(figures), parse_constant=no_constant) == expected
    assert "\n" not in as_json(figures, indent=None)
    with pytest.raises(TypeError):
        as_json({"what": object()})


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"accuracy": 0.5})
    with pytest.raises(TypeError):
        write_json(path, {"accuracy": object()})
    assert json.loads(path.read_text()) == {"accuracy": 0.5}
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]
