"""Searches for the settings of certified training on the digits, and trains the best ones again.

Run: python examples/tune_digits.py [--max-trials 6] [--epochs 20] [--output runs/tune_digits]; it needs the extra
`tuning`. It prints clean and certified accuracy of each trial, the best first, and of the best settings trained again
on the test images. It saves best.keras in --output. A search that was stopped goes on where it was.
"""

import argparse
import pathlib

from clustr_keras.data import load
from clustr_keras.tuning import ClustrHyperModel, Leaderboard, make_objective, make_tuner, saving_atomically


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-trials", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/tune_digits"))
    asked = parser.parse_args()

    digits = load("digits")
    # What may vary is the hypermodel's to say; it also holds back images to judge the trials by.
    hypermodel = ClustrHyperModel(digits, radius=0.3)
    asked.output.mkdir(parents=True, exist_ok=True)
    tuner = make_tuner(
        "bayesian", hypermodel, make_objective("clean+certified"), asked.max_trials, asked.epochs, asked.output
    )
    with saving_atomically():
        tuner.search(epochs=asked.epochs, verbose=0)

    leaderboard = Leaderboard.of(tuner)
    leaderboard.write(asked.output)
    for row in leaderboard.rows:
        print(f"trial {row['trial']}: {row['val_accuracy']:.3f} clean, {row['val_certified_accuracy']:.3f} at 0.3")

    model = hypermodel.retrain(tuner.get_best_hyperparameters()[0], asked.epochs)
    model.save(asked.output / "best.keras")
    certificate = model.certify(digits.test.images)
    clean, certified = (certificate.accuracy_at(radius, digits.test.labels) for radius in (0.0, 0.3))
    print(f"test images: {clean:.3f} clean, {certified:.3f} certified at 0.3; saved {asked.output / 'best.keras'}")


if __name__ == "__main__":
    main()
