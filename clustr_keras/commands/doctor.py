"""`clustr doctor`."""

import importlib
import os
import pathlib
import platform
import re
import shutil
import typing
from typing import Any

from clustr_keras.commands.answering import answering, fail_unless
from clustr_keras.commands.options import JsonOption, data_folder
from clustr_keras.installation import extras, install_command, missing_requirements, version_of

if typing.TYPE_CHECKING:
    import rich.table

_VERSIONS = ("clustr-keras", "keras", "tensorflow", "numpy", "jax")
# Missing packages of an extra that people are told by name.
_LISTED = 3
# What the metadata of the extras cannot say.
_NOTES = {
    "beam": "in an environment of its own: it needs protobuf < 7",
    "docs": "in an environment of its own: make docs",
    "gpu": "for NVIDIA GPUs",
}


def doctor(as_json: JsonOption = False) -> None:
    """Show versions, devices, and what is missing.

    Certifies a few images to see whether the package works; exit status 1 if it does not, or something that it needs
    is missing or too old.

    JSON: ok, versions, platform, python, backend, cpus, memory_gib, devices, arithmetic (ieee_float32, tf32, onednn),
    missing, extras (name to missing and command), tensorflow_model_server, data_folder, self_check, error.
    """
    with answering(as_json) as answer:
        missing = missing_requirements()
        figures: dict[str, Any] = {
            "ok": False,
            "versions": {name: version_of(name) for name in _VERSIONS},
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "memory_gib": _memory_gib(),
            "missing": missing,
            "extras": {
                extra.name: {"missing": extra.missing, "command": extra.command, "note": _NOTES.get(extra.name)}
                for extra in extras()
            },
            "tensorflow_model_server": shutil.which("tensorflow_model_server"),
            "data_folder": _data_folder(),
            **_of_the_backend(),
        }
        figures["ok"] = not missing and figures["error"] is None and figures["self_check"]["passed"]
        answer(figures, _table(figures), *_extras(figures["extras"]), _verdict(figures))
    fail_unless(figures["ok"])


def _memory_gib() -> float | None:
    """Of the machine, `None` where it does not say."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _data_folder() -> dict[str, Any]:
    """Where TensorFlow Datasets prepares data sets by default, and whether it may write there."""
    folder = data_folder()
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return {"path": str(folder), "writable": os.access(nearest, os.W_OK | os.X_OK) and pathlib.Path(nearest).is_dir()}


def _of_the_backend() -> dict[str, Any]:
    """What only Keras and TensorFlow know; and the error of a machine on which they do not even start."""
    found: dict[str, Any] = {"backend": None, "devices": [], "arithmetic": {}, "self_check": None, "error": None}
    try:
        keras, tf = importlib.import_module("keras"), importlib.import_module("tensorflow")
        from clustr_keras.commands.self_check import self_check
        from clustr_keras.lipschitz.arithmetic import is_ieee_float32

        found["backend"] = keras.backend.backend()
        found["devices"] = [_device(tf, device) for device in tf.config.list_physical_devices()]
        found["arithmetic"] = {
            "ieee_float32": is_ieee_float32(),
            "tf32": tf.config.experimental.tensor_float_32_execution_enabled(),
            "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") != "0" and platform.machine() == "x86_64",
        }
        found["self_check"] = self_check()
    except Exception as error:  # whatever it is, it is what the doctor was asked for
        found["error"] = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return found


def _device(tf: Any, device: Any) -> dict[str, str]:
    details = tf.config.experimental.get_device_details(device) if device.device_type == "GPU" else {}
    return {"name": device.name.removeprefix("/physical_device:"), "is": details.get("device_name", "")}


def _table(figures: dict[str, Any]) -> "rich.table.Table":
    import rich.table

    table = rich.table.Table(show_header=False, title="This machine")
    for name, version in figures["versions"].items():
        table.add_row(name, version or "not installed")
    table.add_row("Python", f"{figures['python']}, {figures['platform']}")
    table.add_row("processors, memory", f"{figures['cpus']}, {figures['memory_gib']} GiB")
    table.add_row("Keras runs on", figures["backend"] or "nothing")
    shown = [f"{device['name']} {device['is']}".rstrip() for device in figures["devices"]]
    table.add_row("devices", ", ".join(shown) or "none")
    if figures["arithmetic"]:
        table.add_row("arithmetic", _arithmetic(figures))
    table.add_row("tensorflow_model_server", figures["tensorflow_model_server"] or "not on the PATH; needed by nothing")
    folder = figures["data_folder"]
    writable = "writable" if folder["writable"] else "NOT WRITABLE: pass --data-dir, or set TFDS_DATA_DIR"
    table.add_row("data sets", f"{folder['path']}, {writable}")
    return table


def _arithmetic(figures: dict[str, Any]) -> str:
    """What matters to certificates."""
    arithmetic = figures["arithmetic"]
    if not arithmetic["ieee_float32"]:
        return (
            "less than IEEE float32: radii are NOT certified. On a GPU: CUDA_VISIBLE_DEVICES=-1 computes without it; "
            "in Python, tf.config.experimental.enable_tensor_float_32_execution(False) switches TF32 off"
        )
    onednn = "oneDNN on: results may differ from machine to machine by rounding, which radii account for"
    return f"IEEE float32, radii are certified{f'; {onednn}' if arithmetic['onednn'] else ''}"


def _extras(extras: dict[str, Any]) -> list[str]:
    """Lines whose commands may be copied."""
    there = [name for name, extra in extras.items() if not extra["missing"]]
    lines = [f"Extras that are there: {', '.join(there) or 'none'}."]
    for name, extra in extras.items():
        if extra["missing"]:
            packages = [re.split(r"[^\w.-]", text)[0] for text in extra["missing"]]
            rest = f" and {len(packages) - _LISTED} more" if len(packages) > _LISTED else ""
            lines.append(f"{name}: missing {', '.join(packages[:_LISTED])}{rest}")
            lines.append(f"    {extra['command']}{'    # ' + extra['note'] if extra['note'] else ''}")
    return lines


def _verdict(figures: dict[str, Any]) -> str:
    if figures["missing"]:
        needed = ", ".join(figures["missing"])
        return f"NOT WELL: missing or too old: {needed}. Install them: {install_command()}"
    if figures["error"]:
        return f"NOT WELL: {figures['error']}"
    check = figures["self_check"]
    return f"{'All is well' if check['passed'] else 'NOT WELL'}: {check['detail']}."
