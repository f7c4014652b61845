"""What lies in export/, read."""

import pathlib
import re
import shlex

import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

ROOT = pathlib.Path(__file__).parents[2]
EXPORT = ROOT / "export"
KUBERNETES = EXPORT / "kubernetes"
CONFIGS = ("models.config", "batching.config", "monitoring.config")
SERIES = ":tensorflow:serving:request_count"

README = (EXPORT / "README.md").read_text()
CODE = [textblock for _, textblock in re.findall(r"^( *)```\n(.*?)^\1```$", README, flags=re.DOTALL | re.MULTILINE)]
# One for each line, continued lines joined, comments off.
COMMANDS = [shlex.split(line, comments=True) for block in CODE for line in block.replace("\\\n", " ").splitlines()]
QUICK_START = COMMANDS[:5]


def option(command, name):
    return command[command.index(name) + 1]


def load_yaml(path):
    return yaml.safe_load(path.read_text())


COMPOSE = load_yaml(EXPORT / "docker-compose.yml")
BASE = {path.stem: load_yaml(path) for path in sorted((KUBERNETES / "base").glob("*.yaml"))}
DEPLOYMENT, SERVICE, AUTOSCALER = BASE["deployment"], BASE["service"], BASE["autoscaler"]
CONTAINER = DEPLOYMENT["spec"]["template"]["spec"]["containers"][0]


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
