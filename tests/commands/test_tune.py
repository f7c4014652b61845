import pytest

from clustr_keras.commands.tune import tune


def test_tune_twice_finds_the_same(tmp_path, answer):
    def search(folder, *more):
        arguments = ("--max-trials", 1, "--epochs", 1, "--output", tmp_path / folder)
        figures, code = answer("tune", *arguments, *more)
        assert code == 0
        assert all(name in tune.__doc__ for name in figures)
        assert figures.pop("output") == str(tmp_path / folder)
        return figures

    first, second = search("first", "--retrain", tmp_path / "best.keras"), search("second")
    retrained = first.pop("retrained")
    assert second.pop("retrained") is None
    assert first == second
    assert (first["recipe"], first["data"], first["seed"], len(first["trials"])) == ("certified", "digits", 0, 1)
    assert 0.0 < first["trials"][0]["val_certified_accuracy"] <= first["trials"][0]["val_accuracy"]
    assert retrained["test_images"] == 360
    assert retrained["clean_accuracy"] == pytest.approx(1.0, abs=0.3)
