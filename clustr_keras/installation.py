"""What the package needs, by the metadata that it was installed with, and what of that is there."""

import dataclasses
import importlib.metadata
import json
import shlex
import urllib.parse
from collections.abc import Iterator

from packaging.requirements import Requirement

PACKAGE = "clustr-keras"


@dataclasses.dataclass(frozen=True)
class Extra:
    """An optional extra.

    Args:
        name: Name of it.
        missing: What it needs and is not there, such as `keras-tuner>=1.4.8`, with the version that is there instead.
    """

    name: str
    missing: tuple[str, ...]

    @property
    def command(self) -> str:
        """Installs it."""
        return install_command(self.name)


def install_command(extra: str = "", package: str = PACKAGE) -> str:
    """The command that installs a package with an extra, from the folder that it was installed from if it was one."""
    from urllib.request import url2pathname  # brings HTTP and TLS, for which the command line need not wait

    try:
        # What pip notes of a package that does not come from an index (PEP 610).
        source = json.loads(importlib.metadata.distribution(package).read_text("direct_url.json") or "{}")
    except importlib.metadata.PackageNotFoundError:
        source = {}
    folder = urllib.parse.urlparse(source.get("url", ""))
    is_folder = folder.scheme == "file" and "dir_info" in source
    what = url2pathname(folder.path) if is_folder else package
    how = "pip install --editable" if is_folder and source["dir_info"].get("editable") else "pip install"
    return f"{how} {shlex.quote(f'{what}[{extra}]' if extra else what)}"


def version_of(package: str) -> str | None:
    """The version of an installed package, `None` if it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def missing_requirements(package: str = PACKAGE) -> tuple[str, ...]:
    """What a package needs in any case and is not there, or in another version."""
    return _missing(package, "")


def extras(package: str = PACKAGE) -> tuple[Extra, ...]:
    """The extras of an installed package, as its metadata names them."""
    names = importlib.metadata.metadata(package).get_all("Provides-Extra") or []
    return tuple(Extra(name, _missing(package, name)) for name in names)


def _missing(package: str, extra: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for requirement in _needs(package, extra) for text in _unmet(requirement)))


def _needs(package: str, extra: str) -> Iterator[Requirement]:
    """What a package needs for an extra, beyond what it needs without one; for none if `extra` is empty."""
    for text in importlib.metadata.requires(package) or []:
        requirement = Requirement(text)
        always = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if always if not extra else not always and _applies(requirement, extra):
            yield requirement


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is not None and requirement.marker.evaluate({"extra": extra})


def _unmet(requirement: Requirement) -> Iterator[str]:
    """The requirement itself, or what its own extras need and is not there."""
    shown = f"{requirement.name}{''.join(f'[{extra}]' for extra in sorted(requirement.extras))}{requirement.specifier}"
    found = version_of(requirement.name)
    if found is None:
        yield shown
    elif not requirement.specifier.contains(found, prereleases=True):
        yield f"{shown} ({found} is there)"
    else:
        for extra in sorted(requirement.extras):
            yield from _missing(requirement.name, extra)
