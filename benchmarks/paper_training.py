"""The paper's training on 8,000 MNIST digits with a small convnet: clean accuracy, and accuracy under PGD-20.

Run: python benchmarks/paper_training.py --data-dir DIR, with DIR a TensorFlow Datasets folder that holds `mnist10k`
"""

import argparse
import time

from results import machine, write_results

from clustr_keras.attacks import ProjectedGradientDescent
from clustr_keras.data import as_floats, load
from clustr_keras.training import paper_recipe, train

EPS = 0.1
RESTARTS = 3
SEED = 0


def robust_accuracy(model, images, labels):
    """Share of examples that PGD-20 does not flip, through log-space scores and through the distance logits."""

    def log_scores(x):
        return model.head.log_scores(model.backbone(x, training=False))

    def distance_logits(x):
        return model(x, training=False)

    attacks = (
        ProjectedGradientDescent(logits, "l_inf", steps=20, restarts=RESTARTS, batch_size=500)
        for logits in (log_scores, distance_logits)
    )
    return [1.0 - float(attack(images, labels, eps=EPS).is_flipped.mean()) for attack in attacks]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True)
    mnist = load("mnist10k", parser.parse_args().data_dir)
    x_test, y_test = as_floats(mnist.test.images), mnist.test.labels
    rows = []
    for name in ("standard", "clustr", "clustr-qtrades", "trades"):
        recipe = paper_recipe(name, "mnist10k", EPS, SEED).faster()
        start = time.perf_counter()
        model = train(mnist, recipe)
        seconds = time.perf_counter() - start
        clean = float((model.predict(x_test, batch_size=500, verbose=0).argmax(-1) == y_test).mean())
        in_log_space, by_distance = robust_accuracy(model, x_test, y_test)
        epochs = recipe.epochs + (recipe.pretraining.epochs if recipe.pretraining else 0)
        rows.append(
            {
                "recipe": f"{name} --fast",
                "epochs": epochs,
                "training_s": round(seconds, 1),
                "clean": round(clean, 4),
                f"PGD-20 x {RESTARTS} at {EPS}, log scores": round(in_log_space, 4),
                f"PGD-20 x {RESTARTS} at {EPS}, distance logits": round(by_distance, 4),
                "seed": SEED,
                **machine(),
            }
        )
    write_results(__file__, rows)
