import pathlib

import pytest

from clustr_keras.serving.model_config import ModelConfig, model_configs, read_model_config_file

ROOT = pathlib.Path(__file__).parents[2]
MODEL = 'name: "m" base_path: "/models/m" model_platform: "tensorflow"'


@pytest.fixture
def read(tmp_path):
    """Reads a file of these models."""

    def read(*models):
        path = tmp_path / "models.config"
        path.write_text("model_config_list { " + " ".join(f"config {{ {model} }}" for model in models) + " }")
        return read_model_config_file(path)

    return read


def test_the_file_of_the_export_folder():
    [model] = read_model_config_file(ROOT / "export" / "models.config")
    assert (model.name, model.model_dir, model.labels) == ("clustr", "/models/clustr", {"stable": 1, "canary": 2})
    assert model.policy([1, 2, 3]) == {1, 2}
    assert model.policy([1, 3]) == {1}


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", {10}),
        ("model_version_policy { latest {} }", {10}),
        ("model_version_policy { latest { num_versions: 2 } }", {9, 10}),
        ("model_version_policy { latest { num_versions: 7 } }", {2, 9, 10}),
        ("model_version_policy { all {} }", {2, 9, 10}),
        ("model_version_policy { specific { versions: 9 versions: 11 } }", {9}),
    ],
)
def test_which_versions_are_served(read, policy, served):
    [model] = read(f"{MODEL} {policy}")
    assert model.policy([9, 10, 2]) == served
    assert model.policy([]) == set()


def test_models_keep_their_order(read):
    assert [model.name for model in read(MODEL, MODEL.replace('"m"', '"a"'))] == ["m", "a"]


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ([], "names no model"),
        ([MODEL, MODEL], "same name: m"),
        ([MODEL.replace('"m"', '"a/b"')], "models.config, model 'a/b': name must be"),
        ([MODEL.replace("/models", "models")], "absolute path on this machine; got 'models/m'"),
        ([MODEL.replace("/models", "gs://models")], "absolute path on this machine; got 'gs://models/m'"),
        ([MODEL.replace("tensorflow", "other")], "must be \"tensorflow\"; got 'other'"),
        ([MODEL.split(" model_platform")[0]], "must be \"tensorflow\"; got ''"),
        ([MODEL + " model_version_policy { specific {} }"], "names no versions"),
        ([MODEL + " nonsense: 1"], "not a ModelServerConfig in text form.*nonsense"),
    ],
)
def test_what_cannot_be_served_is_refused(read, models, words):
    with pytest.raises(ValueError, match=words):
        read(*models)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "models.config").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not a ModelServerConfig"):
        read_model_config_file(tmp_path / "models.config")


def test_what_only_model_server_does_is_said(read, caplog):
    assert [model.name for model in read(MODEL + " logging_config {}")] == ["m"]
    assert "nothing is logged" in caplog.text


def test_a_folder_or_a_file(tmp_path):
    [model] = model_configs(tmp_path, "m", {"stable": 1}, None)
    assert (model.model_dir, model.name, model.labels) == (tmp_path, "m", {"stable": 1})
    assert model.policy([1, 2]) == {1, 2}
    [model] = model_configs(None, "clustr", None, ROOT / "export" / "models.config")
    assert model.name == "clustr"
    with pytest.raises(FileNotFoundError):
        model_configs(None, "clustr", None, tmp_path / "nowhere")


@pytest.mark.parametrize(("folder", "file"), [(None, None), ("a", "b")])
def test_neither_or_both_are_refused(folder, file):
    with pytest.raises(ValueError, match="either the folder of one model or a model_config_file"):
        model_configs(folder, "m", None, file)


def test_labels_beside_a_file_are_refused():
    with pytest.raises(ValueError, match="labels are given in it"):
        model_configs(None, "m", {"stable": 1}, ROOT / "export" / "models.config")


@pytest.mark.parametrize("name", ["", "a/b", "a:b"])
def test_names_that_cannot_stand_in_a_url_are_refused(name):
    with pytest.raises(ValueError, match="name must be a non-empty string"):
        ModelConfig("m", name)
