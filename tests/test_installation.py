import json

import pytest

from clustr_keras import installation


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Three packages, by their metadata alone."""

    def install(name, version, *lines):
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        head = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        (folder / "METADATA").write_text("\n".join([*head, *lines, ""]))

    install(
        "some-thing",
        "1.0",
        "Requires-Dist: some-base>=2",
        "Requires-Dist: never-there; python_version < '3'",
        "Provides-Extra: fast",
        "Requires-Dist: some-engine[turbo]>=1; extra == 'fast'",
        "Provides-Extra: old",
        "Requires-Dist: some-engine<1; extra == 'old'",
        "Provides-Extra: all",
        "Requires-Dist: some-thing[fast,old]; extra == 'all'",
        "Requires-Dist: not-there>=3; extra == 'all'",
        "Provides-Extra: plain",
        "Requires-Dist: some-engine; extra == 'plain'",
    )
    install("some-base", "1.5")
    install("some-engine", "1.2", "Provides-Extra: turbo", "Requires-Dist: charger==7; extra == 'turbo'")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("installed")
def test_requirements_are_those_of_the_metadata():
    assert installation.missing_requirements("some-thing") == ("some-base>=2 (1.5 is there)",)
    found = {extra.name: extra.missing for extra in installation.extras("some-thing")}
    assert found == {
        "fast": ("charger==7",),
        "old": ("some-engine<1 (1.2 is there)",),
        "all": ("charger==7", "some-engine<1 (1.2 is there)", "not-there>=3"),
        "plain": (),
    }


@pytest.mark.parametrize(
    ("source", "command"),
    [
        (None, "pip install 'some-thing[fast]'"),
        ({"url": "file:///a/clone", "dir_info": {}}, "pip install '/a/clone[fast]'"),
        ({"url": "file:///a%20b", "dir_info": {"editable": True}}, "pip install --editable '/a b[fast]'"),
        ({"url": "https://host/some.whl", "archive_info": {}}, "pip install 'some-thing[fast]'"),
    ],
)
def test_an_extra_comes_from_where_the_package_came_from(installed, source, command):
    if source is not None:
        (installed / "some_thing-1.0.dist-info" / "direct_url.json").write_text(json.dumps(source))
    assert installation.install_command("fast", "some-thing") == command


def test_what_was_never_installed_comes_from_the_index():
    assert installation.install_command(package="never-there") == "pip install never-there"
