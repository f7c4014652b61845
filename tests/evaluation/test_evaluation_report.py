import dataclasses
import html
import re
import shutil
import subprocess

import numpy as np
import pytest

from clustr_keras.evaluation.cascade import AttackScore, ThreatResult
from clustr_keras.evaluation.diagnostics import Diagnostic
from clustr_keras.evaluation.evaluate import BrokenCertificate, Evaluation
from clustr_keras.evaluation.evaluation_report import write_evaluation
from clustr_keras.evaluation.target import Target
from clustr_keras.evaluation.threat_model import ThreatModel

COUNT, CLASSES = 40, 3


def make_evaluation(channels=1, **changes):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, COUNT)
    class_ids = np.where(rng.random(COUNT) < 0.9, labels, (labels + 1) % CLASSES)
    images = rng.uniform(0.2, 0.8, (COUNT, 6, 6, channels)).astype("float32")
    radius = rng.random(COUNT)
    threats, is_standing = [], class_ids == labels
    for norm, eps in (("l_inf", 8 / 255), ("l_2", 0.3), ("l_2", 0.6)):
        is_standing = is_standing & (rng.random(COUNT) < 0.7)
        flipped_to = np.where(is_standing, class_ids, (class_ids + 1) % CLASSES)
        score = AttackScore("pgd-20", f"PGD {norm}, 20 steps", float(is_standing.mean()), 30, 0.625)
        threats.append(
            ThreatResult(ThreatModel(norm, eps), (score,), is_standing, np.clip(images + 0.1, 0, 1), flipped_to)
        )
    embeddings, centers = rng.normal(size=(COUNT, 4)), rng.normal(size=(CLASSES, 2, 4))
    target = Target(
        None, (6, 6, channels), CLASSES, "the <model>", None, lambda _: embeddings, centers, ("ape", "bee", "cat")
    )
    fields = {
        "target": target,
        "images": images,
        "labels": labels,
        "ids": np.arange(100, 100 + COUNT),
        "class_ids": class_ids,
        "radius": radius + 0.001,
        "certified_radius": radius,
        "certified_accuracy": {0.3: 0.5},
        "uncertified_accuracy": {},
        "threats": tuple(threats),
        "diagnostics": (
            Diagnostic("vanishing gradients", "l_inf", 0.1, True, {"without gradient": 0.025}, "at most 5% ..."),
            Diagnostic("transfer beats white box", "l_inf", 0.1, None, {}, "not run"),
        ),
        "broken": (),
        "smallest_flips": {"l_inf": np.full(COUNT, np.inf), "l_2": np.full(COUNT, np.inf)},
        "subset_size": 16,
        "seconds": 12.0,
        "seed": 0,
    }
    return Evaluation(**{**fields, **changes})


def written(evaluation, tmp_path):
    path = tmp_path / "report.html"
    write_evaluation(evaluation, path, {"data set": "digits"})
    return path.read_text(encoding="utf-8")


def words(text):
    body = re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
    body = re.sub(r"<br>|</t[dh]>|</d[dt]>", " ", body)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", body)).replace("\N{NO-BREAK SPACE}", " ").split())


def test_the_summary_has_the_worst_case_of_each_norm(tmp_path):
    evaluation = make_evaluation()
    page = words(written(evaluation, tmp_path))
    of_inf, _, of_two = (100 * threat.robust_accuracy for threat in evaluation.threats)
    assert (
        f"Of 40 test images {100 * evaluation.clean_accuracy:.1f} % are classified right; {of_inf:.1f} % stand every "
        f"attack within l∞ 8/255 and {of_two:.1f} % stand every attack within l2 0.6. No sign of masked gradients "
        "was found, but 1 of the 2 looks at it say nothing here."
    ) in page
    assert "Evaluation of the <model>" in page
    assert "vanishing gradients, l∞ at most 5% ... pass without gradient 2.5 %" in page
    assert "0 of 40 broken" in page


def test_a_failed_diagnostic_and_a_broken_certificate_come_first(tmp_path):
    failed = Diagnostic("one step beats many", "l_2", 0.5, False, {"many steps": 0.5, "one step": 0.2}, "...")
    broken = BrokenCertificate(7, "PGD", 0.25, 0.5, 0, 2, np.zeros((6, 6, 1), "float32"))
    page = words(written(make_evaluation(diagnostics=(failed,), broken=(broken,)), tmp_path))
    summary = page[: page.index("Accuracy against eps")]
    assert "1 certificates are broken" in summary
    assert "These numbers are not to be believed: 1 of the signs of masked gradients is there" in summary
    assert "Image 107: class ape turns into cat at distance 0.25, inside its certified radius 0.5." in page
    assert "FAIL" in page


def test_flips_are_counted_from_class_to_class(tmp_path):
    evaluation = make_evaluation()
    text = written(evaluation, tmp_path)
    rows = re.findall(r'<tr><th scope="row">(ape|bee|cat)</th>(.*?)</tr>', text, flags=re.DOTALL)
    counts = [[int(cell or 0) for cell in re.findall(r">(\d*)</td>", row)] for _, row in rows]
    threat = evaluation.threats[-1]
    flipped = (evaluation.class_ids == evaluation.labels) & ~threat.is_standing
    expected = np.zeros((CLASSES, CLASSES), int)
    for before, after in zip(evaluation.class_ids[flipped], threat.flipped_to[flipped], strict=True):
        expected[before, after] += 1
    assert counts == expected.tolist()


def test_without_certificates_and_embeddings_their_parts_are_left_out(tmp_path):
    evaluation = make_evaluation(radius=None, certified_radius=None, certified_accuracy={})
    bare = dataclasses.replace(evaluation.target, embed=None, centers=None, class_names=())
    page = words(written(dataclasses.replace(evaluation, target=bare), tmp_path))
    for part in ("Embedding map", "Radii by class", "Certified accuracy is proved", "certificates"):
        assert part not in page
    assert "Hardest" in page


def test_in_real_arithmetic_nothing_is_called_certified(tmp_path):
    evaluation = make_evaluation(certified_radius=None, certified_accuracy={}, uncertified_accuracy={0.3: 0.5})
    page = words(written(evaluation, tmp_path))
    assert "nothing here is certified" in page
    assert "accuracy in real arithmetic" in page
    assert "radius in real arithmetic, less 0.01 %" in page
    for claim in ("certified accuracy", "Certified accuracy", "certified radi"):
        assert claim not in page


def test_the_file_needs_nothing_else(tmp_path):
    text = written(make_evaluation(channels=3), tmp_path)
    assert "http" not in text
    assert not re.search(r"<(script|link|iframe)", text)
    assert all(source.startswith("data:image/png") for source in re.findall(r'src="([^"]*)"', text))
    assert "#0102" not in text


@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_its_tables_and_images(tmp_path, width):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium here")
    text = written(make_evaluation(), tmp_path)
    # What the browser made of the page, written into it where --dump-dom can be read.
    script = """<script>addEventListener("load", () => { document.title = JSON.stringify({
        tables: [...document.querySelectorAll("table")].filter(t => t.offsetHeight > 20).length,
        images: [...document.images].filter(i => i.naturalWidth > 0 && i.offsetWidth > 20).length,
        plots: [...document.querySelectorAll("svg")].filter(s => s.getBoundingClientRect().width > 200).length,
        overflow: document.documentElement.scrollWidth - innerWidth}) })</script>"""
    (tmp_path / "seen.html").write_text(text.replace("</body>", script + "</body>"))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},1000", "--dump-dom"]
    done = subprocess.run(
        [*command, (tmp_path / "seen.html").as_uri()], check=True, capture_output=True, text=True, timeout=120
    )
    seen = re.search(r'"tables":(\d+),"images":(\d+),"plots":(\d+),"overflow":(-?\d+)', html.unescape(done.stdout))
    tables, images, plots, overflow = map(int, seen.groups())
    assert tables == 4
    assert images == text.count("<img ") >= 3 * 12
    assert plots == 3
    assert overflow <= 0
