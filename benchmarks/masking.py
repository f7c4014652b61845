"""What saturating scores hide: the same networks attacked through the published scores and through log-space ones.

Each row is one attack on one network. `own verdict` counts an example as lost when the attacked scores change their
class; `network's verdict` when the class that the network answers does, the largest log-space score.

Run: python benchmarks/masking.py --data-dir DIR, with DIR a TensorFlow Datasets folder that holds `mnist10k`
"""

import argparse
import dataclasses

import tensorflow as tf
from results import machine, write_results

from clustr_keras.attacks import ProjectedGradientDescent, cross_entropy
from clustr_keras.consistency import QTRADES
from clustr_keras.data import as_floats, load
from clustr_keras.training import paper_recipe, train

EPS = 0.1
STEPS, RESTARTS = 20, 10
SEED = 0


def attack_rows(network, model, images, labels):
    """One row for each kind of scores that the attack sees."""

    def log_scores(x):
        return model.head.log_scores(model.backbone(x, training=False))

    def paper_scores(x):
        return model.head.paper_scores(model.backbone(x, training=False))

    def answers(x):
        return tf.argmax(tf.concat([log_scores(part) for part in tf.split(x, 4)], axis=0), axis=-1).numpy()

    clean = float((answers(images) == labels).mean())
    for scores in (paper_scores, log_scores):
        attack = ProjectedGradientDescent(
            scores, "l_inf", steps=STEPS, restarts=RESTARTS, loss=cross_entropy, batch_size=500
        )
        result = attack(images, labels, eps=EPS)
        yield {
            "network": network,
            "attacked through": scores.__name__.replace("_", " "),
            "clean": round(clean, 4),
            f"PGD-{STEPS} x {RESTARTS} at {EPS}, own verdict": round(1.0 - float(result.is_flipped.mean()), 4),
            "network's verdict": round(float((answers(result.adversarial) == labels).mean()), 4),
            "seed": SEED,
            **machine(),
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True)
    mnist = load("mnist10k", parser.parse_args().data_dir)
    x_test, y_test = as_floats(mnist.test.images), mnist.test.labels
    recipe = paper_recipe("clustr-qtrades", "mnist10k", EPS, SEED).faster()
    rows = []
    for kind, trained_on in (("paper", "published scores"), ("log", "log-space scores")):
        consistency = QTRADES(weight=8.0, eps=EPS, scores=kind, seed=SEED)
        model = train(mnist, dataclasses.replace(recipe, consistency=consistency))
        rows += attack_rows(f"clustr-qtrades --fast, trained on {trained_on}", model, x_test, y_test)
    write_results(__file__, rows)
