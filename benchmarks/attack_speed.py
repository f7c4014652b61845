"""Speed of PGD: this project against a loop over CleverHans, ART and Foolbox, with the same settings.

Run: python benchmarks/attack_speed.py --data-dir DIR, with DIR a TensorFlow Datasets folder that holds `mnist10k`.
ART is in the extra `autoattack`; Foolbox is measured where it is installed (`pip install foolbox`).

PGD with 20 steps of 0.01 in the l_inf ball of 0.1 and 10 random restarts, on the cross-entropy, on 1,000 test images in
batches of 250, against two small convnets: one that cross-entropy trained, and one by ClusTR with QTRADES. Each tool
runs once to compile, then all take turns. The others attack every image from every start, as their calls have it;
this project leaves out what has been flipped. Robust accuracy is the mean over all rounds, each with starts of its own.
"""

import argparse
import statistics
import time

import numpy as np
import tensorflow as tf
from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent
from results import machine, write_results

from clustr_keras.attacks import ProjectedGradientDescent, cross_entropy
from clustr_keras.data import as_floats, load
from clustr_keras.training import paper_recipe, train

EPS, STEP, STEPS, RESTARTS = 0.1, 0.01, 20, 10
EXAMPLES, BATCH, ROUNDS, SEED = 1000, 250, 4, 0


def ours(logits, images, labels, run=lambda attack: attack._run):
    """Which images stand, by `ProjectedGradientDescent`."""
    attack = ProjectedGradientDescent(
        logits, "l_inf", STEPS, RESTARTS, STEP, cross_entropy, BATCH, SEED, random_start=True
    )
    attack._run = run(attack)

    def stands():
        attack.seed += 1
        return ~attack(images, labels, EPS).is_flipped

    return stands


def ours_by_xla(logits, images, labels):
    """The same, its compiled loop handed on to XLA."""
    return ours(logits, images, labels, run=lambda attack: tf.function(attack._attack, jit_compile=True))


def ours_step_by_step(logits, images, labels):
    """The same without the compiled loop: only the logits are compiled."""
    compiled = tf.function(logits, reduce_retracing=True)
    return ours(compiled, images, labels, run=lambda attack: attack._attack)


def cleverhans(logits, images, labels):
    """The same by a loop over CleverHans' function."""

    def run():
        is_standing = np.ones(len(images), bool)
        for _ in range(RESTARTS):
            for start in range(0, len(images), BATCH):
                x, y = images[start : start + BATCH], labels[start : start + BATCH]
                adversarial = projected_gradient_descent(
                    logits, tf.constant(x), EPS, STEP, STEPS, np.inf, clip_min=0.0, clip_max=1.0, y=tf.constant(y),
                    rand_init=True, sanity_checks=False,
                )  # fmt: skip
                is_standing[start : start + BATCH] &= np.argmax(logits(adversarial), axis=-1) == y
        return is_standing

    return run


def art(logits, images, labels):
    """The same by ART's PGD for TensorFlow."""
    from art.attacks.evasion import ProjectedGradientDescentTensorFlowV2
    from art.estimators.classification import TensorFlowV2Classifier

    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    estimator = TensorFlowV2Classifier(
        model=logits, nb_classes=10, input_shape=images.shape[1:], loss_object=loss, clip_values=(0.0, 1.0)
    )
    attack = ProjectedGradientDescentTensorFlowV2(
        estimator, np.inf, EPS, STEP, max_iter=STEPS, num_random_init=RESTARTS, batch_size=BATCH, verbose=False
    )

    def run():
        adversarial = attack.generate(images, np.eye(10, dtype="float32")[labels])
        return np.argmax(estimator.predict(adversarial, batch_size=BATCH), axis=-1) == labels

    return run


def foolbox(logits, images, labels):
    """The same by Foolbox' PGD."""
    # EagerPy 0.30, the last one, asks for a function that NumPy 2 has dropped.
    np.find_common_type = lambda arrays, scalars: np.result_type(*arrays, *scalars)  # noqa: NPY201
    import eagerpy
    from foolbox import TensorFlowModel
    from foolbox.attacks import LinfPGD

    model = TensorFlowModel(logits, bounds=(0.0, 1.0), device="/CPU:0")
    attack = LinfPGD(abs_stepsize=STEP, steps=STEPS, random_start=True).repeat(RESTARTS)

    def run():
        is_standing = []
        for start in range(0, len(images), BATCH):
            x, y = tf.constant(images[start : start + BATCH]), tf.constant(labels[start : start + BATCH])
            _, _, is_flipped = attack(model, eagerpy.astensor(x), eagerpy.astensor(y), epsilons=EPS)
            is_standing.append(~is_flipped.numpy())
        return np.concatenate(is_standing)

    return run


def measured(name, logits, images, labels):
    """A row for each tool."""
    runs = {}
    for tool in (ours, ours_by_xla, ours_step_by_step, cleverhans, art, foolbox):
        try:
            runs[tool.__name__] = tool(logits, images, labels)
        except ImportError:
            print(f"{tool.__name__} is not installed, and left out.")
    seconds, left = {tool: [] for tool in runs}, {tool: [] for tool in runs}
    for round_number in range(ROUNDS + 1):
        for tool, run in runs.items():
            start = time.perf_counter()
            left[tool].append(np.mean(run()))
            if round_number:  # the first one compiles
                seconds[tool].append(time.perf_counter() - start)
    for tool, of_tool in seconds.items():
        ratios = [theirs / own for theirs, own in zip(of_tool, seconds["ours"], strict=True)]
        yield {
            "network": name,
            "tool": tool,
            "robust accuracy": f"{np.mean(left[tool]):.4f}",
            "least, most": f"{np.min(left[tool]):.3f}, {np.max(left[tool]):.3f}",
            "s": round(statistics.median(of_tool), 2),
            "times ours": round(statistics.median(ratios), 2),
            "seed": SEED,
            **machine(),
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    mnist = load("mnist10k", parser.parse_args().data_dir)
    x_test, y_test = as_floats(mnist.test.images[:EXAMPLES]), np.asarray(mnist.test.labels[:EXAMPLES], "int64")
    rows = []
    for recipe in ("standard", "clustr-qtrades"):
        trained = train(mnist, paper_recipe(recipe, "mnist10k", EPS, SEED).faster())

        def log_scores(images, training=False, model=trained):
            """Logits that do not saturate."""
            return model.head.log_scores(model.backbone(images, training=training))

        is_right = np.argmax(log_scores(x_test), axis=-1) == y_test
        rows += measured(f"{recipe} --fast, clean {is_right.mean():.3f}", log_scores, x_test, y_test)
    write_results(__file__, rows)
