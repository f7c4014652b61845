import inspect
import io
import json
import pathlib
import re
import runpy
import shlex
import shutil
import subprocess
import sys

import kubernetes_validate
import numpy as np
import pytest
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from PIL import Image
from tensorflow_serving.config import model_server_config_pb2

from clustr_keras.serving import Client, LocalServer

ROOT = pathlib.Path(__file__).parents[1]
EXPORT = ROOT / "export"
KUBERNETES = EXPORT / "kubernetes"
CONFIGS = ("models.config", "batching.config", "monitoring.config")
SERIES = ":tensorflow:serving:request_count"

README = (EXPORT / "README.md").read_text()
CODE = [textblock for _, textblock in re.findall(r"^( *)```\n(.*?)^\1```$", README, flags=re.DOTALL | re.MULTILINE)]
# One for each line, continued lines joined, comments off.
COMMANDS = [shlex.split(line, comments=True) for block in CODE for line in block.replace("\\\n", " ").splitlines()]
QUICK_START = COMMANDS[:5]


def load_yaml(path):
    return yaml.safe_load(path.read_text())


COMPOSE = load_yaml(EXPORT / "docker-compose.yml")
BASE = {path.stem: load_yaml(path) for path in sorted((KUBERNETES / "base").glob("*.yaml"))}
DEPLOYMENT, SERVICE, AUTOSCALER = BASE["deployment"], BASE["service"], BASE["autoscaler"]
CONTAINER = DEPLOYMENT["spec"]["template"]["spec"]["containers"][0]


def merged(value, patch):
    """A strategic merge patch as far as these files need it: lists of named things are merged by name."""
    if isinstance(value, dict) and isinstance(patch, dict):
        return value | {key: merged(value.get(key), part) for key, part in patch.items()}
    if isinstance(value, list) and all(isinstance(item, dict) and "name" in item for item in value + patch):
        by_name = {item["name"]: item for item in value}
        return list((by_name | {item["name"]: merged(by_name.get(item["name"]), item) for item in patch}).values())
    return patch


GPU_DEPLOYMENT = merged(DEPLOYMENT, load_yaml(KUBERNETES / "gpu" / "deployment-patch.yaml"))
GPU_CONTAINER = GPU_DEPLOYMENT["spec"]["template"]["spec"]["containers"][0]
MANIFESTS = {name: manifest for name, manifest in BASE.items() if name != "kustomization"} | {
    "gpu": GPU_DEPLOYMENT,
    "copy-pod": load_yaml(KUBERNETES / "copy-pod.yaml"),
}


def message_types():
    """BatchingParameters and MonitoringConfig with ModelServer's names and numbers; no package on PyPI has them."""
    int64, boolean, string = ".google.protobuf.Int64Value", ".google.protobuf.BoolValue", ".google.protobuf.StringValue"
    kind = descriptor_pb2.FieldDescriptorProto
    messages = {
        "BatchingParameters": [
            ("max_batch_size", 1, int64),
            ("batch_timeout_micros", 2, int64),
            ("max_enqueued_batches", 3, int64),
            ("num_batch_threads", 4, int64),
            ("thread_pool_name", 5, string),
            ("allowed_batch_sizes", 6, kind.TYPE_INT64),
            ("pad_variable_length_inputs", 7, kind.TYPE_BOOL),
            ("enable_large_batch_splitting", 8, boolean),
            ("max_execution_batch_size", 9, int64),
        ],
        "PrometheusConfig": [("enable", 1, kind.TYPE_BOOL), ("path", 2, kind.TYPE_STRING)],
        "MonitoringConfig": [("prometheus_config", 1, ".tensorflow.serving.PrometheusConfig")],
    }
    file = descriptor_pb2.FileDescriptorProto(name="serving.proto", package="tensorflow.serving", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field_name, number, of in fields:
            field = message.field.add(name=field_name, number=number)
            field.label = kind.LABEL_REPEATED if field_name == "allowed_batch_sizes" else kind.LABEL_OPTIONAL
            if isinstance(of, str):
                field.type, field.type_name = kind.TYPE_MESSAGE, of
            else:
                field.type = of
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tensorflow.serving.{name}"))
        for name in messages
    }


MESSAGES = message_types() | {"ModelServerConfig": model_server_config_pb2.ModelServerConfig}
MESSAGE_OF = dict(zip(CONFIGS, ("ModelServerConfig", "BatchingParameters", "MonitoringConfig"), strict=True))


def parse_config(name, text=None):
    return text_format.Parse(text or (EXPORT / name).read_text(), MESSAGES[MESSAGE_OF[name]]())


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("models.config", "model_version_policy"),
        ("batching.config", "max_enqueued_batches"),
        ("monitoring.config", "enable"),
    ],
)
def test_a_config_with_a_misspelled_field_does_not_parse(name, field):
    text = (EXPORT / name).read_text()
    assert text_format.MessageToString(parse_config(name))
    with pytest.raises(text_format.ParseError, match=f'no field named "{field}s"'):
        parse_config(name, re.sub(rf"\b{field}\b", f"{field}s", text))


def test_models_config_serves_two_versions_under_labels():
    [model] = parse_config("models.config").model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == ("clustr", "/models/clustr", "tensorflow")
    assert list(model.model_version_policy.specific.versions) == [1, 2]
    assert dict(model.version_labels) == {"stable": 1, "canary": 2}


def test_batching_config_takes_what_the_client_sends_and_lets_only_so_much_wait():
    batching = parse_config("batching.config")
    client_sends = inspect.signature(Client).parameters["max_rows"].default
    assert batching.max_batch_size.value >= client_sends >= batching.max_execution_batch_size.value > 0
    assert batching.enable_large_batch_splitting.value
    assert 0 < batching.max_enqueued_batches.value < 1000
    assert batching.num_batch_threads.value > 0
    assert batching.batch_timeout_micros.value <= 10_000


def test_everyone_reads_metrics_where_monitoring_config_puts_them():
    monitoring = parse_config("monitoring.config").prometheus_config
    assert monitoring.enable
    [job] = load_yaml(EXPORT / "prometheus.yml")["scrape_configs"]
    assert job["metrics_path"] == monitoring.path
    assert job["static_configs"] == [{"targets": ["serving:8501"]}]
    assert SERVICE["metadata"]["annotations"] == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "8501",
        "prometheus.io/path": monitoring.path,
    }


def test_the_config_map_holds_the_files_word_for_word():
    assert BASE["configmap"]["data"] == {name: (EXPORT / name).read_text() for name in CONFIGS}


# Of those that ModelServer 2.21 has.
FLAGS = {
    "--port": "8500",
    "--rest_api_port": "8501",
    "--model_config_file": "/config/models.config",
    "--model_config_file_poll_wait_seconds": "10",
    "--allow_version_labels_for_unavailable_models": "true",
    "--enable_batching": "true",
    "--batching_parameters_file": "/config/batching.config",
    "--monitoring_config_file": "/config/monitoring.config",
}


@pytest.mark.parametrize(
    "arguments",
    [
        COMPOSE["services"]["serving"]["command"],
        COMPOSE["services"]["serving-gpu"]["command"],
        CONTAINER["args"],
        GPU_CONTAINER["args"],
    ],
    ids=["compose", "compose-gpu", "kubernetes", "kubernetes-gpu"],
)
def test_all_start_modelserver_with_the_same_flags(arguments):
    assert dict(argument.split("=") for argument in arguments) == FLAGS


@pytest.mark.parametrize("name", ["serving", "serving-gpu", "prometheus"])
def test_compose_mounts_read_only_what_is_there_and_listens_on_this_machine_only(name, monkeypatch):
    service = COMPOSE["services"][name]
    assert all(re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port) for port in service["ports"])
    mounts = {mount["target"]: mount for mount in service["volumes"]}
    assert all(mount["type"] == "bind" and mount["read_only"] for mount in mounts.values())
    if name == "prometheus":
        assert (EXPORT / mounts["/etc/prometheus/prometheus.yml"]["source"]).is_file()
        return
    assert service["ports"] == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
    for flag in service["command"]:
        if "_file=" in flag:
            path = pathlib.PurePosixPath(flag.split("=")[1])
            assert (EXPORT / mounts[str(path.parent)]["source"] / path.name).is_file()
    # What `clustr export` of the README writes is where models.config looks.
    default = re.fullmatch(r"\$\{CLUSTR_MODELS:-(.*)\}", mounts["/models"]["source"])[1]
    [model] = parse_config("models.config").model_config_list.config
    served = (EXPORT / default).resolve() / pathlib.PurePosixPath(model.base_path).relative_to("/models")
    assert served == ROOT / option(QUICK_START[1], "--output")


def test_only_the_plain_server_starts_by_itself():
    services = COMPOSE["services"]
    profiles = {name: service.get("profiles") for name, service in services.items()}
    assert profiles == {"serving": None, "serving-gpu": ["gpu"], "prometheus": ["monitoring"]}


def test_gpus_compute_in_float32():
    gpu = COMPOSE["services"]["serving-gpu"]
    assert gpu["environment"] == {"NVIDIA_TF32_OVERRIDE": "0"}
    assert gpu["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert GPU_CONTAINER["env"] == [{"name": "NVIDIA_TF32_OVERRIDE", "value": "0"}]
    assert GPU_CONTAINER["resources"]["limits"]["nvidia.com/gpu"] == 1
    files = [path for path in EXPORT.rglob("*") if path.suffix in (".yml", ".yaml", ".config", ".py")]
    assert not [path for path in files if "mixed_precision" in path.read_text()]


def test_all_images_are_of_one_pinned_release():
    images = [COMPOSE["services"][name]["image"] for name in ("serving", "serving-gpu")]
    release = re.fullmatch(r"tensorflow/serving:(\d+\.\d+\.\d+)", images[0])[1]
    assert images == [f"tensorflow/serving:{release}", f"tensorflow/serving:{release}-gpu"]
    assert images == [CONTAINER["image"], GPU_CONTAINER["image"]]
    assert f"release {release}," in README


@pytest.mark.parametrize("version", ["1.30.0", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("name", sorted(MANIFESTS))
def test_kubernetes_manifests_are_valid(name, version):
    kubernetes_validate.validate(MANIFESTS[name], version, strict=True)


def test_a_misspelled_field_of_a_manifest_is_not_valid():
    wrong = merged(DEPLOYMENT, {"spec": {"template": {"spec": {"terminationGracePeriod": 30}}}})
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_kustomize_finds_every_manifest():
    assert set(BASE["kustomization"]["resources"]) == {f"{name}.yaml" for name in BASE} - {"kustomization.yaml"}
    gpu = load_yaml(KUBERNETES / "gpu" / "kustomization.yaml")
    assert (gpu["resources"], gpu["patches"]) == (["../base"], [{"path": "deployment-patch.yaml"}])
    assert len(GPU_DEPLOYMENT["spec"]["template"]["spec"]["containers"]) == 1


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_kustomize_builds_the_overlay_as_merged_here():
    command = ["kubectl", "kustomize", str(KUBERNETES / "gpu")]
    built = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    manifests = {manifest["kind"]: manifest for manifest in yaml.safe_load_all(built)}
    assert manifests.pop("Deployment") == GPU_DEPLOYMENT
    assert sorted(manifests) == ["ConfigMap", "HorizontalPodAutoscaler", "PersistentVolumeClaim", "Service"]


def test_the_deployment_is_probed_mounted_and_confined():
    pod = DEPLOYMENT["spec"]["template"]["spec"]
    assert CONTAINER["readinessProbe"]["httpGet"] == {"path": "/v1/models/clustr/metadata", "port": "rest"}
    assert CONTAINER["livenessProbe"]["tcpSocket"] == CONTAINER["startupProbe"]["tcpSocket"] == {"port": "grpc"}
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert ports == {"grpc": int(FLAGS["--port"]), "rest": int(FLAGS["--rest_api_port"])}
    assert ports == {port["targetPort"]: port["port"] for port in SERVICE["spec"]["ports"]}

    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["config"]["configMap"]["name"] == BASE["configmap"]["metadata"]["name"]
    claim = volumes["models"]["persistentVolumeClaim"]
    assert claim == {"claimName": BASE["volume-claim"]["metadata"]["name"], "readOnly": True}
    mounts = {mount["mountPath"]: mount for mount in CONTAINER["volumeMounts"]}
    assert mounts["/models"] == {"name": "models", "mountPath": "/models", "readOnly": True}
    assert mounts["/config"] == {"name": "config", "mountPath": "/config", "readOnly": True}

    assert pod["securityContext"]["runAsNonRoot"]
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    assert SERVICE["spec"]["selector"] == DEPLOYMENT["spec"]["selector"]["matchLabels"] == labels


def test_the_autoscaler_asks_for_what_the_adapter_makes_of_modelservers_series():
    [rule] = load_yaml(KUBERNETES / "prometheus-adapter-values.yaml")["rules"]["custom"]
    assert f'__name__="{SERIES}"' in rule["seriesQuery"]
    assert re.search(rule["name"]["matches"], SERIES)
    [metric] = AUTOSCALER["spec"]["metrics"]
    assert metric["object"]["metric"]["name"] == rule["name"]["as"]
    assert metric["object"]["describedObject"]["kind"].lower() in rule["resources"]["overrides"]
    assert metric["object"]["describedObject"]["name"] == SERVICE["metadata"]["name"]
    assert AUTOSCALER["spec"]["scaleTargetRef"]["name"] == DEPLOYMENT["metadata"]["name"]
    assert "replicas" not in DEPLOYMENT["spec"]  # or each `kubectl apply` would undo the autoscaler's work
    text = (KUBERNETES / "base" / "autoscaler.yaml").read_text()
    assert SERIES in text
    assert "prometheus-adapter" in text


def option(command, name):
    return command[command.index(name) + 1]


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


def png(image):
    file = io.BytesIO()
    Image.fromarray(np.uint8(np.round(image[..., 0] * 255))).save(file, "PNG")
    return file.getvalue()


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


def test_the_readme_names_files_services_and_options_that_exist():
    import typer

    from clustr_keras.cli import app

    for command in COMMANDS:
        if command[:2] == ["docker", "compose"]:
            words = [word for word in command[command.index("-f") + 2 :] if not word.startswith("-") and word != "*"]
            assert words[0] in ("up", "down", "restart")
            assert set(words[1:]) <= set(COMPOSE["services"])
        if command[0] == "clustr":
            parameters = typer.main.get_command(app).commands[command[1]].params
            known = {name for parameter in parameters for name in parameter.opts}
            assert {word for word in command if word.startswith("-")} <= known
    paths = {path.rstrip(".,") for path in re.findall(r"\b(?:export|kubernetes|tests)/[\w./-]+", README)}
    for path in paths:
        assert (ROOT / path).exists() or (EXPORT / path).exists(), path
    table = re.findall(r"^\| (`.*?`) \|", README, flags=re.MULTILINE)
    listed = {name.strip("`/") for row in table for name in row.split(", ")}
    assert listed | {"README.md"} == {path.name for path in EXPORT.iterdir() if path.name != "__pycache__"}
