import json

import keras
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from clustr_keras import demo
from clustr_keras.training import CertifiedRecipe

RECIPE = CertifiedRecipe(sizes={"widths": (64, 32)}, epochs=3)


def run(output):
    return demo.run_demo(output, RECIPE, audit_steps=5, audit_restarts=1)


def test_the_demo_does_the_main_job_and_starts_again_after_an_interruption(tmp_path, monkeypatch, digits):
    output = tmp_path / "demo"
    with monkeypatch.context() as interrupted:
        interrupted.setattr(demo, "PGD", demo.PGD[:1])  # time is for the second run
        interrupted.setattr(demo, "_serve_and_query", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(output)
    assert not (output / "results.json").exists()

    returned = run(output)
    results = json.loads((output / "results.json").read_text())
    assert results == json.loads(json.dumps(returned))
    assert (output / "serving" / "clustr" / "1" / "saved_model.pb").exists()
    assert sorted(path.name for path in (output / "serving" / "clustr").iterdir()) == ["1"]

    _, (images, labels) = digits
    certificate = keras.models.load_model(output / "model.keras").certify(images)
    assert results["clean_accuracy"] == np.mean(certificate.class_ids == labels) > 0.9
    for radius, share in results["certified_accuracy"].items():
        right = certificate.class_ids == labels
        assert share == np.mean(right & (certificate.certified_radius >= float(radius)))
    assert [row["class_name"] for row in results["answers"]] == [str(name) for name in certificate.class_ids[:8]]
    radii = [row["certified_radius"] for row in results["answers"]]
    np.testing.assert_allclose(radii, certificate.certified_radius[:8], atol=1e-5)
    assert results["audit"] == {"examples": 360, "attacks": ["PGD l_2, 5 steps x 1 restarts"], "violations": 0}
    for attack, share in results["robust_accuracy"].items():
        eps = float(attack.rsplit("eps ")[-1])
        if "l_2" in attack:
            assert share >= results["certified_accuracy"][str(eps)]
    assert {"train", "certify", "attack", "audit", "export", "serve and query", "report"} <= set(results["seconds"])
    assert "<html" in (output / "report.html").read_text()


def test_a_server_that_answers_something_else_is_noticed(tmp_path, monkeypatch, classifier, digits):
    from clustr_keras.serving import export_model

    _, (images, labels) = digits
    directory = export_model(classifier, tmp_path / "clustr").parent
    certificate = classifier.certify(images[:20])
    demo._serve_and_query(directory, images[:20], labels[:20], certificate)
    certificate.class_ids[3] += 1
    with pytest.raises(RuntimeError, match="differ from the live model"):
        demo._serve_and_query(directory, images[:20], labels[:20], certificate)
    assert_array_equal(classifier.certify(images[:20]).class_ids[:3], certificate.class_ids[:3])
