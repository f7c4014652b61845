import importlib.metadata

import pytest

from clustr_keras.commands import doctor, installation, self_check


def test_a_machine_on_which_the_tests_run_is_well(answer, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "not" / "yet"))
    figures, code = answer("doctor")
    assert (code, figures["ok"], figures["missing"], figures["error"]) == (0, True, [], None)
    assert figures["self_check"]["passed"]
    assert figures["versions"]["tensorflow"] == importlib.metadata.version("tensorflow")
    assert figures["backend"] == "tensorflow"
    assert "CPU:0" in [device["name"] for device in figures["devices"]]
    assert set(figures["extras"]) == {*importlib.metadata.metadata("clustr-keras").get_all("Provides-Extra")}
    assert figures["extras"]["tuning"]["command"] == "pip install 'clustr-keras[tuning]'"
    assert figures["data_folder"] == {"path": str(tmp_path / "not" / "yet"), "writable": True}
    assert all(name in doctor.doctor.__doc__ for name in figures)


def test_what_people_read_has_the_way_out(tmp_path, clustr_here, monkeypatch):
    extra = installation.Extra("tuning", ("keras-tuner>=1.4.8",))
    monkeypatch.setattr(installation, "extras", lambda: (extra,))
    monkeypatch.setattr(installation, "missing_requirements", lambda: ("keras>=99 (3.15 is there)",))
    (tmp_path / "file").write_text("where a folder should be")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "file"))
    code, out, err = clustr_here("doctor", cwd=tmp_path)
    out = " ".join(out.replace("│", " ").split())
    assert (code, err) == (1, "")
    assert "pip install 'clustr-keras[tuning]'" in out
    assert "NOT WELL: missing or too old: keras>=99 (3.15 is there)" in out
    assert "NOT WRITABLE" in out


def test_a_package_that_does_not_work_is_told_and_not_raised(answer, monkeypatch):
    def fail():
        raise ImportError("libcudart\nis not there")

    monkeypatch.setattr(self_check, "self_check", fail)
    figures, code = answer("doctor")
    assert (code, figures["ok"]) == (1, False)
    assert figures["error"] == "ImportError: libcudart is not there"


def test_radii_that_do_not_hold_are_noticed(monkeypatch):
    from clustr_keras import ClustrClassifier

    certify = ClustrClassifier.certify
    calls = []

    def first_class_later(self, images, *args, **kwargs):
        certificate = certify(self, images, *args, **kwargs)
        certificate.class_ids[:] = len(calls)
        calls.append(images)
        return certificate

    assert self_check.self_check()["passed"]
    monkeypatch.setattr(ClustrClassifier, "certify", first_class_later)
    found = self_check.self_check()
    assert not found["passed"]
    assert "DID NOT" in found["detail"]


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
