import base64
import dataclasses
import html.parser
import io
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from clustr_keras.evaluation.plots import difference_uri
from clustr_keras.evaluation.report import Report, RobustAccuracy, certified_accuracy_curve, write_report


class Page(html.parser.HTMLParser):
    """What a reader finds: tags with attributes, the text, the tables' cells, the cards' terms."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.rows, self.cards, self.open = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "dl":
            self.cards.append([])
        elif tag in ("dt", "dd"):
            self.cards[-1].append("")
        if tag in ("meta", "img", "br"):
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        tags = [tag for tag, _ in self.open]
        data = data.replace("\N{NO-BREAK SPACE}", " ")
        if "style" not in tags:
            self.words.append(data)
        if "td" in tags or "th" in tags:
            self.rows[-1][-1] += data.strip("\n")
        if "dd" in tags or "dt" in tags:
            self.cards[-1][-1] += data

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    def classes(self, name):
        return [attrs for _, attrs in self.tags if name in (attrs.get("class") or "").split()]


def make_report(count=60, classes=4, per_class=2, dimension=5, shape=(8, 8), **changes):
    rng = np.random.default_rng(7)
    labels = rng.integers(0, classes, count)
    class_ids = np.where(rng.random(count) < 0.8, labels, (labels + 1) % classes)
    radius = rng.random(count)
    images = rng.uniform(0.3, 0.7, (count, *shape)).astype(np.float32)
    # Every second attempt flips the answer, from just outside the certified radius.
    direction = rng.choice([-1.0, 1.0], images.shape) / np.sqrt(np.prod(shape))
    fields = {
        "title": "Digits",
        "facts": {"training": "21 s", "Lipschitz bound": "1.0000004"},
        "images": images,
        "labels": labels,
        "class_names": [f"class {i}" for i in range(classes)],
        "class_ids": class_ids,
        "certified_radius": radius,
        "robust_accuracy": [
            RobustAccuracy("PGD l_2, 20 steps", "l_2", 0.3, 0.715),
            RobustAccuracy("PGD l_inf, 20 steps", "l_inf", 8 / 255, 0.614),
        ],
        "adversarial": images + (radius + 0.01).reshape(-1, *[1] * len(shape)) * direction,
        "flipped_to": np.where(np.arange(count) % 2, class_ids, (class_ids + 2) % classes),
        "embeddings": rng.normal(size=(count, dimension)),
        "centers": rng.normal(size=(classes, per_class, dimension)),
        "audit": {"examples": count, "attacks": ["PGD on the margin"], "violations": 0},
    }
    return Report(**{**fields, **changes})


def written(report, tmp_path):
    path = tmp_path / "report.html"
    write_report(report, path)
    return path.read_text(encoding="utf-8")


def test_curve_equals_brute_force_also_at_the_radii_themselves():
    rng = np.random.default_rng(0)
    labels, class_ids = rng.integers(0, 3, (2, 200))
    radius = np.round(rng.random(200), 2).astype(np.float32)
    radii = np.concatenate([radius, [0.0, 0.3, 0.5, 2.0], radius + 1e-6])
    examples = list(zip(labels, class_ids, radius.astype(float), strict=True))
    expected = [sum(y == c and r >= eps for y, c, r in examples) / 200 for eps in radii.astype(float)]
    np.testing.assert_array_equal(certified_accuracy_curve(labels, class_ids, radius, radii), expected)


def test_a_wrong_prediction_never_counts_as_certified():
    np.testing.assert_array_equal(certified_accuracy_curve([0, 1], [1, 0], [5.0, 9.0], [0.0, 1.0]), [0.0, 0.0])


@pytest.mark.parametrize("radius", [[0.1, np.nan], [0.1, -0.1], [0.1, np.inf], [0.1]])
def test_curve_refuses_what_is_no_radius(radius):
    with pytest.raises(ValueError, match="certified_radius"):
        certified_accuracy_curve([0, 1], [0, 1], radius, [0.0])


def test_the_file_needs_nothing_else(tmp_path):
    text = written(make_report(), tmp_path)
    assert "http" not in text
    assert "@import" not in text
    page = Page(text)
    assert page.open == []
    tags = {tag for tag, _ in page.tags}
    assert "svg" in tags
    assert not tags & {"script", "link", "iframe", "object"}
    for _, attrs in page.tags:
        for name in ("src", "href", "xlink:href"):
            assert attrs.get(name, "#").startswith(("#", "data:image/png;base64,"))
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    used = re.findall(r'xlink:href="#([^"]+)"|url\(#([^)]+)\)', text)
    assert {a or b for a, b in used} <= ids
    assert "#0102" not in text, "a theme placeholder was left in"


def test_summary_and_tables_hold_the_given_numbers(tmp_path):
    report = make_report()
    right = report.labels == report.class_ids
    at_03 = 100 * np.mean(right & (report.certified_radius >= 0.3))
    at_05 = 100 * np.mean(right & (report.certified_radius >= 0.5))
    page = Page(written(report, tmp_path))
    assert (
        f"Of 60 test images {right.sum()} are classified right: clean accuracy {100 * right.mean():.1f} %" in page.text
    )
    assert f"Certified accuracy is {at_03:.1f} % at 0.3 and {at_05:.1f} % at 0.5." in page.text
    assert "0 violations in 60 examples" in page.text
    assert ["Lipschitz bound", "1.0000004"] in page.rows
    assert ["PGD l2, 20 steps", "l2", "0.3", "71.5 %", f"{at_03:.1f} %"] in page.rows
    assert ["PGD l∞, 20 steps", "l∞", "8/255", "61.4 %", "\N{EN DASH}"] in page.rows
    assert not any("audit" in attrs["class"] for attrs in page.classes("alert"))


def test_cards_show_each_group_with_its_numbers(tmp_path):
    report = make_report()
    page = Page(written(report, tmp_path))
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    shown = [int(re.match(r"test image (\d+)", attrs["alt"])[1]) for attrs in images[::3]]
    assert len(shown) == len(page.cards) == 24
    assert len(set(shown)) == 24
    right = report.labels == report.class_ids
    order = [i for i in np.argsort(report.certified_radius) if right[i]]
    assert shown[:6] == order[:6]
    assert shown[12:18] == order[-6:][::-1]
    assert not right[shown[18:]].any()
    assert len(page.classes("alert")) == 6
    for index, card in zip(shown, page.cards, strict=True):
        norm = np.sqrt(np.sum((report.adversarial[index].astype(float) - report.images[index].astype(float)) ** 2))
        flipped, predicted = report.flipped_to[index], report.class_ids[index]
        assert dict(zip(card[::2], card[1::2], strict=True)) == {
            "predicted": f"class {predicted}",
            "true class": f"class {report.labels[index]}",
            "certified radius": f"{np.floor(report.certified_radius[index] * 1e4) / 1e4:.4f}",
            "‖difference‖2": f"{norm:.4f}",
            "attempt": f"failed: still class {predicted}" if flipped == predicted else f"classified as class {flipped}",
        }
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(images[0]["src"].split(",")[1]))))
    np.testing.assert_array_equal(pixels, np.rint(255 * report.images[shown[0]]))


def test_text_is_escaped_everywhere(tmp_path):
    nasty = "<script>alert('x')</script> & $\\frac$"
    report = make_report(
        title=nasty,
        facts={nasty: nasty},
        class_names=[nasty, "a<b", "\N{CJK UNIFIED IDEOGRAPH-8C93}", "d"],
        robust_accuracy=[RobustAccuracy(nasty, "l_2", 0.3, 0.5)],
        audit={"examples": 1, "attacks": [nasty], "violations": 0},
    )
    page = Page(written(report, tmp_path))
    assert "script" not in {tag for tag, _ in page.tags}
    assert [nasty, nasty] in page.rows
    assert page.rows[-1][0] == nasty
    assert page.text.count(nasty) >= 6  # Heading, fact (2), attack, audit, map.


def test_violations_are_prominent(tmp_path):
    page = Page(written(make_report(audit={"examples": 60, "attacks": ["PGD"], "violations": 3}), tmp_path))
    assert "3 violations in 60 examples" in page.text
    assert "The certificates are broken" in page.text
    assert "found no violation" not in page.text
    assert any("audit" in attrs["class"] for attrs in page.classes("alert"))


def test_an_attempt_that_flips_inside_its_certified_radius_is_a_broken_certificate(tmp_path):
    report = make_report()
    radius = report.certified_radius.copy()
    radius[4] += 0.02  # The attempt on image 4 flips; now it lies inside.
    radius[5] += 0.02  # That on image 5 failed.
    page = Page(written(dataclasses.replace(report, certified_radius=radius), tmp_path))
    assert "The certificates are broken" in page.text
    assert "changed the answer inside the certified radius: test image 4." in page.text
    assert any("audit" in attrs["class"] for attrs in page.classes("alert"))


def test_a_robust_accuracy_below_the_certified_accuracy_is_a_contradiction(tmp_path):
    report = make_report()
    proved = float(certified_accuracy_curve(report.labels, report.class_ids, report.certified_radius, 0.3))
    for accuracy, is_told in ((proved, False), (proved - 1 / 60, True)):
        attacks = [RobustAccuracy("PGD", "l_2", 0.3, accuracy), RobustAccuracy("PGD", "l_inf", 0.3, 0.0)]
        page = Page(written(dataclasses.replace(report, robust_accuracy=attacks), tmp_path))
        assert ("breaks the certificates" in page.text) == is_told
        assert any("number" in attrs["class"] for attrs in page.classes("alert")) == is_told


def test_no_audit_is_not_a_passed_audit(tmp_path):
    text = Page(written(make_report(audit={"examples": 0, "attacks": [], "violations": 0}), tmp_path)).text
    assert "No audit was run." in text
    assert "violation" not in text


def test_only_l_2_attacks_stand_on_the_radius_axis(tmp_path):
    only_inf = [RobustAccuracy("PGD", "l_inf", 0.3, 0.6125)]
    assert "robust accuracy" in curve(written(make_report(), tmp_path))
    assert "robust accuracy" not in curve(written(make_report(robust_accuracy=only_inf), tmp_path))


def curve(text):
    return re.search(r"Certified accuracy against radius</h2>.*?</svg>", text, re.DOTALL)[0].split("<path", 1)[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"dimension": 1},
        {"per_class": 1, "count": 1},
        {"shape": (32, 32, 3), "count": 1000, "per_class": 3},
        {"shape": (8, 8, 1), "count": 5},
        {"labels": np.zeros(60, int)},  # Three classes are absent.
        {"robust_accuracy": [], "facts": {}},
        {"certified_radius": np.zeros(60), "flipped_to": np.zeros(60, int), "class_ids": np.zeros(60, int)},
        {"embeddings": np.ones((60, 5)), "centers": np.ones((4, 2, 5))},
        {"classes": 30, "count": 3000},
    ],
    ids=lambda changes: ", ".join(changes),
)
@pytest.mark.filterwarnings("error")
def test_unusual_reports_are_written_and_stay_small(changes, tmp_path):
    text = written(make_report(**changes), tmp_path)
    assert Page(text).open == []
    assert "nan" not in re.sub(r"base64,[^\"]*", "", text)
    assert len(text) < 3e6


def test_magnification_is_the_largest_that_saturates_no_pixel():
    difference = np.zeros((4, 4))
    difference[0, 0], difference[1, 1] = -0.15, 0.1
    uri, magnification = difference_uri(difference)
    assert magnification == 5
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))).astype(int)
    red, blue = pixels[..., 0], pixels[..., 2]
    assert blue[0, 0] > red[0, 0]
    assert red[1, 1] > blue[1, 1]
    assert abs(red[2, 2] - blue[2, 2]) < 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.zeros(59, int)}, r"labels must have shape \(60,\).*got \(59,\)"),
        ({"embeddings": np.zeros(60)}, r"embeddings must have shape \(60, 'D'\)"),
        ({"centers": np.zeros((3, 1, 5))}, r"centers must have shape \(4, 1, 5\).*got \(3, 1, 5\)"),
        ({"images": np.zeros((0, 8, 8))}, r"N >= 1; got shape \(0, 8, 8\)"),
        ({"images": np.full((60, 8, 8), 16.0)}, r"images must lie in \[0, 1\]; got values from 16.0 to 16.0"),
        ({"adversarial": np.full((60, 8, 8), np.nan)}, r"adversarial must lie in \[0, 1\]; got values from nan"),
        ({"class_ids": np.arange(60)}, r"class_ids must lie in 0..3 for 4 class_names; got 4 at index 4"),
        ({"flipped_to": np.zeros(60)}, "flipped_to must be integers; got float64"),
        ({"certified_radius": np.full(60, -0.1)}, "certified_radius .* got -0.1 at index 0"),
        ({"centers": np.full((4, 1, 5), np.nan)}, "finite"),
        ({"audit": {"examples": 1}}, "audit must have the keys .*'violations'"),
    ],
)
def test_bad_input_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        make_report(**changes)


@pytest.mark.parametrize(("norm", "eps", "accuracy"), [("linf", 0.1, 0.5), ("l_2", -0.1, 0.5), ("l_2", 0.1, 50.0)])
def test_bad_attack_figures_are_named(norm, eps, accuracy):
    with pytest.raises(ValueError, match="got"):
        RobustAccuracy("PGD", norm, eps, accuracy)


def test_writing_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "new" / "report.html"
    write_report(make_report(), path)
    first = path.read_text()

    def fail(self, text, **kwargs):
        self.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(pathlib.Path, "write_text", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(make_report(title="Other"), path)
    assert path.read_text() == first
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
