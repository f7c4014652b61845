"""The scripts of export/ and the commands of its README, against a server in ModelServer's place."""

import json
import pathlib
import re
import runpy
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from support.export_folder import CODE, COMMANDS, COMPOSE, EXPORT, QUICK_START, README, ROOT, option, parse_config
from support.png import png

from clustr_keras.serving import LocalServer


def run_clustr(command, *more):
    from clustr_keras.cli import app

    app([*command[1:], *more], standalone_mode=False)


def run_script(command, monkeypatch, capsys):
    """Output and exit status of `python export/SCRIPT.py ...`, in this process."""
    assert command[0] == "python"
    monkeypatch.setattr(sys, "argv", command[1:])
    capsys.readouterr()
    status = None
    try:
        runpy.run_path(str(ROOT / command[1]), run_name="__main__")
    except SystemExit as ended:
        status = ended.code
    return capsys.readouterr().out.splitlines(), status


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which the README's first two commands have been run, the first for two epochs only."""
    folder = tmp_path_factory.mktemp("quick-start")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_clustr(QUICK_START[0], "--epochs", "2")
        run_clustr(QUICK_START[1])
    return folder


@pytest.fixture(scope="module")
def model(trained):
    import keras

    return keras.models.load_model(trained / option(QUICK_START[0], "--output"))


@pytest.fixture(scope="module")
def server(trained):
    """In ModelServer's place, with the labels of models.config."""
    [config] = parse_config("models.config").model_config_list.config
    with LocalServer(trained / option(QUICK_START[1], "--output"), labels=dict(config.version_labels)) as server:
        yield server


def pointed_at(command, server):
    """A command with this server in place of ModelServer's default ports."""
    if "--target" not in command and command[1].endswith("query_endpoint.py"):
        command = [*command, "--target", "127.0.0.1:8500"]
    text = json.dumps(command).replace("127.0.0.1:8500", server.grpc_target)
    return json.loads(text.replace("http://127.0.0.1:8501", server.rest_url))


@pytest.fixture
def images(trained, digits, monkeypatch):
    """`digit.png` and `other.png` in the current folder; their pixels, which are those of digits in 8 bits."""
    monkeypatch.chdir(trained)
    _, (shown, _) = digits
    for name, image in zip(("digit.png", "other.png"), shown, strict=False):
        pathlib.Path(name).write_bytes(png(image))
    return np.float32(np.round(shown[:2] * 255) / 255)


def expected_lines(model, images, names):
    certificate = model.certify(images)
    return [
        f"{name}: class {class_id}, certified radius {radius:.4f}"
        for name, class_id, radius in zip(names, certificate.class_ids, certificate.certified_radius, strict=True)
    ]


def assert_same_answers(lines, expected):
    """Equal but for the last digit: the server may have run them in another batch."""
    assert [line.rsplit(" ", 1)[0] for line in lines] == [line.rsplit(" ", 1)[0] for line in expected]
    radii = [[float(line.rsplit(" ", 1)[1]) for line in answers] for answers in (lines, expected)]
    np.testing.assert_allclose(radii[0], radii[1], atol=1.5e-4)
    assert max(radii[0]) > 0


def test_the_quick_start_is_train_export_serve_query_stop():
    assert [command[:2] for command in QUICK_START] == [
        ["clustr", "train"],
        ["clustr", "export"],
        ["docker", "compose"],
        ["python", "export/query_endpoint.py"],
        ["docker", "compose"],
    ]
    assert option(QUICK_START[1], "--model") == option(QUICK_START[0], "--output")


QUERIES = [command for command in COMMANDS if command[:2] == ["python", "export/query_endpoint.py"]]


@pytest.mark.parametrize("command", QUERIES, ids=" ".join)
def test_every_query_of_the_readme_is_answered(command, trained, model, server, digits, images, monkeypatch, capsys):
    lines, status = run_script(pointed_at(command, server), monkeypatch, capsys)
    assert status is None
    if "digit.png" in command:
        assert_same_answers(lines, expected_lines(model, images, ["digit.png", "other.png"]))
        return
    _, (x_test, y_test) = digits
    assert_same_answers(lines, expected_lines(model, x_test[:8], [f"digit {i}, a {y_test[i]}" for i in range(8)]))


def test_a_broken_file_leaves_its_neighbors_alone(server, model, images, monkeypatch, capsys):
    pathlib.Path("broken.png").write_bytes(png(images[0])[:40])
    pathlib.Path("large.png").write_bytes(png(np.zeros((9, 8, 1))))
    files = ["digit.png", "broken.png", "other.png", "large.png"]
    command = ["python", "export/query_endpoint.py", *files, "--target", server.rest_url]
    lines, status = run_script(command, monkeypatch, capsys)
    assert status is None
    assert_same_answers([lines[0], lines[2]], expected_lines(model, images, ["digit.png", "other.png"]))
    assert all(re.fullmatch(r"(broken|large)\.png: not a PNG or JPEG of the size .*", line) for line in lines[1::2])


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl_gets_a_file_certified_by_label(server, model, images):
    [block] = [block for block in CODE if "certify_encoded" in block]
    command = block[block.index("curl -d") :].replace("http://127.0.0.1:8501", server.rest_url)
    done = subprocess.run(["bash", "-c", command], check=True, capture_output=True, timeout=60)
    [prediction] = json.loads(done.stdout)["predictions"]
    [expected] = expected_lines(model, images[:1], ["digit.png"])
    assert_same_answers(
        ["digit.png: class {class_names}, certified radius {certified_radius}".format(**prediction)], [expected]
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["missing.png"], "No such file"),
        (["--target", "nowhere"], "target must be"),
        (["--target", "http://127.0.0.1:9"], "UNAVAILABLE: cannot reach"),
        (["--version", "7"], "NOT_FOUND: .* version 7"),
        (["--name", "other"], "NOT_FOUND: .*other"),
        (["--label", "stale"], "INVALID_ARGUMENT: .*stale"),
    ],
)
def test_query_endpoint_says_in_one_line_what_is_wrong(arguments, expected, server, images, monkeypatch, capsys):
    command = pointed_at(["python", "export/query_endpoint.py", *arguments], server)
    lines, status = run_script(command, monkeypatch, capsys)
    assert lines == []
    assert re.match(rf"query_endpoint\.py: .*{expected}", status)
    assert "\n" not in status


def test_export_model_writes_the_next_version_and_prints_where(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    [command] = re.findall(r"`(python export/export_model\.py [^`]*)`", README)
    directory = pathlib.Path(shutil.copytree(shlex.split(command)[-1], "copied"))
    lines, status = run_script([*shlex.split(command)[:-1], "copied"], monkeypatch, capsys)
    assert (lines, status) == (["copied/2"], None)
    assert (directory / "2" / "saved_model.pb").is_file()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["missing.keras", "serving"], "File not found"),
        (["plain.keras", "serving"], "plain.keras holds a Sequential; a ClustrClassifier is needed"),
        (["runs/digits.keras", "runs/serving/clustr", "--version", "1"], "version 1 is there already"),
    ],
)
def test_export_model_says_in_one_line_what_is_wrong(arguments, expected, trained, monkeypatch, capsys):
    import keras

    monkeypatch.chdir(trained)
    if not pathlib.Path("plain.keras").exists():
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save("plain.keras")
    lines, status = run_script(["python", "export/export_model.py", *arguments], monkeypatch, capsys)
    assert lines == []
    assert status.startswith("export_model.py: ")
    assert expected in status
    assert "\n" not in status
    assert not pathlib.Path("serving").exists()


@pytest.mark.parametrize("script", ["export_model.py", "query_endpoint.py"])
def test_scripts_are_short(script):
    assert len((EXPORT / script).read_text().splitlines()) < 80


@pytest.mark.parametrize(
    ("name", "port", "passes"), [("clustr", None, True), ("other", None, False), ("clustr", 9, False)]
)
def test_the_health_check_needs_a_loaded_version(name, port, passes, server):
    _, *command = COMPOSE["services"]["serving"]["healthcheck"]["test"]
    assert command[:2] == ["bash", "-c"]
    check = command[2].replace("$$", "$")  # as Compose does
    assert check.count("127.0.0.1/8501") == check.count("models/clustr/metadata") == 1
    check = check.replace("/8501", f"/{port or server.rest_port}").replace("models/clustr", f"models/{name}")
    done = subprocess.run(["bash", "-c", check], check=False, capture_output=True, timeout=30)
    assert (done.returncode == 0) is passes
