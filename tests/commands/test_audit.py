import dataclasses
import json

import numpy as np
import pytest

from clustr_keras.classifier import ClustrClassifier


def drawn(seed, count, total=360):
    return np.sort(np.random.default_rng(seed).permutation(total)[:count]).tolist()


def test_audit_finds_no_violation_and_says_how_far_the_attacks_reach(trained, clustr_here):
    arguments = ("audit", "--model", "model.keras", "--examples", 24, "--reach", "--output", "audited", "--seed", 3)
    code, out, err = clustr_here(*arguments, cwd=trained)
    assert (code, err) == (0, "")
    assert "0 of 24 examples" in out
    assert [path.name for path in (trained / "audited").iterdir()] == ["results.json"]
    results = json.loads((trained / "audited" / "results.json").read_text())
    assert (results["examples"], results["violations"], results["records"], results["seed"]) == (24, 0, [], 3)
    assert [attack.split()[0] for attack in results["attacks"]] == ["PGD", "bisector", "Carlini-Wagner", "smallest"]
    assert results["reach"]["flips_found"] == 24
    assert results["reach"]["ratio_below_1"] == 0
    assert 1.0 <= results["reach"]["ratio_quantiles"]["0.5"] < 2.0


def test_audit_of_false_certificates_saves_counterexamples_and_exits_with_1(trained, monkeypatch, answer, digits):
    certify = ClustrClassifier.certify

    def claim_too_much(self, *args, **kwargs):
        certificate = certify(self, *args, **kwargs)
        return dataclasses.replace(certificate, certified_radius=6 * certificate.certified_radius)

    monkeypatch.setattr(ClustrClassifier, "certify", claim_too_much)
    (trained / "refuted").mkdir()
    (trained / "refuted" / "counterexample-99.npz").write_text("of an earlier audit")
    figures, code = answer("audit", "--model", "model.keras", "--examples", 4, "--output", "refuted", "--seed", 2)
    assert code == 1
    results = json.loads((trained / "refuted" / "results.json").read_text())
    assert figures == {
        "model": "model.keras",
        "data": "digits",
        "output": "refuted",
        "ids": drawn(2, 4),
        **results,
    }
    saved = sorted((trained / "refuted").glob("*.npz"))
    assert len(saved) == results["violations"] == len(results["records"]) > 0
    for record in results["records"]:
        assert record["index"] in figures["ids"]
        assert record["file"] == f"refuted/counterexample-{record['index']}.npz"
        with np.load(trained / record["file"]) as counterexample:
            np.testing.assert_array_equal(counterexample["image"], digits[1][0][record["index"]])
            gap = counterexample["adversarial"].astype("float64") - counterexample["image"].astype("float64")
            assert np.linalg.norm(gap) == pytest.approx(record["distance"], rel=1e-12)
            assert record["distance"] < record["certified_radius"] == counterexample["certified_radius"]


def test_an_exported_version_is_for_evaluate(trained, clustr_here):
    code, out, err = clustr_here("audit", "--model", "serving/1", cwd=trained)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "clustr evaluate takes an exported version" in err
