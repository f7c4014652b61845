import importlib.metadata

from clustr_keras import installation
from clustr_keras.commands import doctor, self_check


def test_a_machine_on_which_the_tests_run_is_well(answer, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "not" / "yet"))
    figures, code = answer("doctor")
    assert (code, figures["ok"], figures["missing"], figures["error"]) == (0, True, [], None)
    assert figures["self_check"]["passed"]
    assert figures["versions"]["tensorflow"] == importlib.metadata.version("tensorflow")
    assert figures["backend"] == "tensorflow"
    assert "CPU:0" in [device["name"] for device in figures["devices"]]
    assert set(figures["extras"]) == {*importlib.metadata.metadata("clustr-keras").get_all("Provides-Extra")}
    assert figures["extras"]["tuning"]["command"] == installation.install_command("tuning")
    assert figures["data_folder"] == {"path": str(tmp_path / "not" / "yet"), "writable": True}
    assert all(name in doctor.doctor.__doc__ for name in figures)


def test_what_people_read_has_the_way_out(tmp_path, clustr_here, monkeypatch):
    extra = installation.Extra("tuning", ("keras-tuner>=1.4.8",))
    monkeypatch.setattr(doctor, "extras", lambda: (extra,))
    monkeypatch.setattr(doctor, "missing_requirements", lambda: ("keras>=99 (3.15 is there)",))
    (tmp_path / "file").write_text("where a folder should be")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "file"))
    code, out, err = clustr_here("doctor", cwd=tmp_path)
    out = " ".join(out.replace("│", " ").split())
    assert (code, err) == (1, "")
    assert installation.install_command("tuning") in out
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
