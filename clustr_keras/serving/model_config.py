"""Which models a server has: one folder, or ModelServer's own file of many."""

import dataclasses
import logging
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

_log = logging.getLogger(__name__)

Policy = Callable[[Iterable[int]], Set[int]]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A model that is served.

    Args:
        model_dir: The folder that holds the version folders.
        name: The model's name in requests.
        labels: Label to version number: other names for versions, `{"stable": 1, "canary": 2}` for example.
        policy: From the versions that are there to those that are served; all of them by default.

    Raises:
        ValueError: If the name cannot stand in a URL.
    """

    model_dir: str | os.PathLike[str]
    name: str
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)
    policy: Policy = frozenset

    def __post_init__(self) -> None:
        """Check the name."""
        if not self.name or set(self.name) & set("/:"):
            raise ValueError(f'name must be a non-empty string without "/" and ":"; got {self.name!r}.')


def read_model_config_file(path: str | os.PathLike[str]) -> list[ModelConfig]:
    """The models of a `ModelServerConfig`, the file that `tensorflow_model_server --model_config_file` takes.

    As there, a model without `model_version_policy` is served in its newest version only.

    Args:
        path: Path of the file, a protocol buffer in text form.

    Returns:
        A list of `ModelConfig`.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no such file, or asks for what cannot be had here: models of other platforms, paths that
            are not absolute or not on this machine.

    Example:

    >>> [model.name for model in read_model_config_file("export/models.config")]
    ['clustr']
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        parsed = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a ModelServerConfig in text form: {error}.") from None
    configs = [_model_config(path, config) for config in parsed.model_config_list.config]
    if not configs:
        raise ValueError(f"{path} names no model. Expected model_config_list {{ config {{ name, base_path }} }}.")
    names = Counter(config.name for config in configs)
    if twice := sorted(name for name, count in names.items() if count > 1):
        raise ValueError(f"{path} has models of the same name: {', '.join(twice)}.")
    return configs


def model_configs(
    model_dir: str | os.PathLike[str] | None,
    name: str,
    labels: Mapping[str, int] | None,
    model_config_file: str | os.PathLike[str] | None,
) -> list[ModelConfig]:
    """The one model of a folder, or those of a file.

    Args:
        model_dir, name, labels: As for `ModelConfig`; a folder of `None` stands for the file.
        model_config_file: Path for `read_model_config_file`, or `None`.

    Returns:
        A list of `ModelConfig`.

    Raises:
        OSError, ValueError: As `read_model_config_file`; ValueError too if not one of the two is given, or labels are
            given beside the file.
    """
    if model_dir is not None and model_config_file is None:
        return [ModelConfig(model_dir, name, dict(labels or {}))]
    if model_config_file is not None and model_dir is None:
        if labels:
            raise ValueError(f"with a model_config_file, labels are given in it; got {dict(labels)!r} beside it.")
        return read_model_config_file(model_config_file)
    got = f"model_dir={model_dir!r} and model_config_file={model_config_file!r}"
    raise ValueError(f"either the folder of one model or a model_config_file must be given; got {got}.")


def _model_config(path, config):
    try:
        # The older field says the same; a model of neither is an error there too.
        platform = config.model_platform or {model_server_config_pb2.TENSORFLOW: "tensorflow"}.get(
            config.model_type, ""
        )
        if platform != "tensorflow":
            raise ValueError(f'model_platform must be "tensorflow"; got {platform!r}.')
        if not os.path.isabs(config.base_path):
            raise ValueError(f"base_path must be an absolute path on this machine; got {config.base_path!r}.")
        if config.HasField("logging_config"):
            _log.warning("%s: logging_config of model %s is for ModelServer; nothing is logged.", path, config.name)
        return ModelConfig(
            config.base_path, config.name, dict(config.version_labels), _policy(config.model_version_policy)
        )
    except ValueError as error:
        raise ValueError(f"{path}, model {config.name!r}: {error}") from None


def _policy(policy):
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return frozenset
    if choice == "specific":
        wanted = frozenset(policy.specific.versions)
        if not wanted:
            raise ValueError("model_version_policy is specific, and names no versions.")
        return wanted.intersection
    count = policy.latest.num_versions or 1
    return lambda numbers: frozenset(sorted(numbers)[-count:])
