import json

from clustr_keras import demo

# As tests/test_demo.py finds them in results.json.
RESULTS = {
    "clean_accuracy": 0.975,
    "certified_accuracy": {"0.3": 0.9, "0.5": 0.75},
    "robust_accuracy": {"PGD l_2, 20 steps x 5 restarts, eps 0.3": 0.925},
    "audit": {"examples": 360, "attacks": ["PGD l_2, 5 steps x 1 restarts"], "violations": 0},
    "answers": [
        {
            "image": 0,
            "true_class": "8",
            "class_name": "3",
            "probability": 0.5,
            "runner_up_class": "5",
            "certified_radius": 0.125,
        }
    ],
}


def test_demo_prints_what_it_found(tmp_path, clustr_here, monkeypatch):
    asked = []

    def run_demo(output, recipe):
        asked.append((str(output), recipe.seed))
        print("a note")
        return RESULTS

    monkeypatch.setattr(demo, "run_demo", run_demo)
    code, out, err = clustr_here("demo", "--seed", 3, cwd=tmp_path)
    assert (code, err) == (0, "")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert ["clean accuracy", "97.5%"] in rows
    assert ["certified accuracy at 0.5", "75.0%"] in rows
    assert ["robust accuracy, PGD l_2, 20 steps x 5 restarts, eps 0.3", "92.5%"] in rows
    assert ["audit violations, PGD l_2, 5 steps x 1 restarts", "0 of 360"] in rows
    assert ["0", "8", "3", "0.500", "5", "0.125"] in rows
    code, out, err = clustr_here("demo", "--output", "here", "--json", cwd=tmp_path)
    assert (code, err) == (0, "a note\n")
    assert json.loads(out) == RESULTS
    assert asked == [("runs/demo", 3), ("here", 0)]
