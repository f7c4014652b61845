import inspect
import pathlib
import re
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml
from google.protobuf import text_format
from support.export_folder import (
    AUTOSCALER,
    BASE,
    COMMANDS,
    COMPOSE,
    CONFIGS,
    CONTAINER,
    DEPLOYMENT,
    EXPORT,
    KUBERNETES,
    QUICK_START,
    README,
    ROOT,
    SERIES,
    SERVICE,
    load_yaml,
    option,
    parse_config,
)

from clustr_keras.serving import Client


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
