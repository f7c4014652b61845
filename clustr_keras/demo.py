"""The main job from end to end on the bundled digits: train, certify, attack, audit, export, serve, query, report."""

import contextlib
import dataclasses
import os
import pathlib
import platform
import shutil
import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from clustr_keras.attacks import ProjectedGradientDescent, shrink_flips
from clustr_keras.classifier import Certificate, ClustrClassifier
from clustr_keras.data import load_digits
from clustr_keras.data.digits import CLASS_NAMES
from clustr_keras.evaluation import AuditResult, Report, RobustAccuracy, audit, write_report
from clustr_keras.progress import progress_bar, say
from clustr_keras.results_file import write_json
from clustr_keras.serving import Client, LocalServer, export_model
from clustr_keras.training import CertifiedRecipe, train_certified
from clustr_keras.training.epoch_progress import EpochProgress
from clustr_keras.types import Floats, Ints

RADII = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 1.0)
PGD = (("l_2", 0.3), ("l_2", 0.5), ("l_2", 1.0), ("l_inf", 8 / 255), ("l_inf", 16 / 255))
MODEL_NAME = "clustr"
# Answers of the server that are shown.
_SHOWN = 8


def run_demo(
    output: pathlib.Path, recipe: CertifiedRecipe | None = None, audit_steps: int = 100, audit_restarts: int = 10
) -> dict[str, Any]:
    """Runs the demo, and says how far it has come.

    Args:
        output: Folder to write to; what an earlier run left there is replaced.
        recipe: `CertifiedRecipe` to train with; its seed is that of the attacks as well.
        audit_steps, audit_restarts: Strength of the audit's attack.

    Returns:
        The dict written to `results.json`.
    """
    output = pathlib.Path(output)
    output.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(output / "serving", ignore_errors=True)
    for name in ("model.keras", "results.json", "report.html"):
        (output / name).unlink(missing_ok=True)
    recipe = recipe or CertifiedRecipe()
    stopwatch = _Stopwatch()
    (x_train, y_train), (x_test, y_test) = load_digits()
    say(
        f"Digits: {len(x_train)} training and {len(x_test)} test images of 8 x 8 pixels in [0, 1]. "
        f"Keras {keras.__version__} on {keras.backend.backend()}."
    )

    with stopwatch("train"), progress_bar("Training", recipe.epochs) as report_epoch:
        model = train_certified(x_train, y_train, CLASS_NAMES, recipe, callbacks=[EpochProgress(report_epoch)])
    model.save(output / "model.keras")

    with stopwatch("certify"):
        certificate = model.certify(x_test)
    radius = certificate.certified_radius
    if radius is None:
        raise RuntimeError("no radius is certified here: the arithmetic in use is not IEEE float32; see clustr doctor.")
    clean_accuracy = certificate.accuracy_at(0.0, y_test)
    certified_accuracy = {str(least): certificate.accuracy_at(least, y_test) for least in RADII}
    with stopwatch("attack"):
        robust_accuracy, strongest = _attack(model, x_test, y_test, certificate, recipe.seed)
    with stopwatch("audit"), progress_bar("Audit", audit_restarts * len(x_test)) as report_attempts:
        attack = ProjectedGradientDescent(
            model.certifier().deployed_logits, "l_2", steps=audit_steps, restarts=audit_restarts, seed=recipe.seed
        )
        audited = audit(model, x_test, [attack], progress=report_attempts)

    facts = {"data_set": "digits", "clean_accuracy": clean_accuracy, "certified_accuracy": certified_accuracy}
    with stopwatch("export"):
        exported = export_model(model, output / "serving" / MODEL_NAME, facts=facts)
    say(f"Exported to {exported}")
    with stopwatch("serve and query"):
        answers = _serve_and_query(exported.parent, x_test, y_test, certificate)

    results = {
        "clean_accuracy": clean_accuracy,
        "certified_accuracy": certified_accuracy,
        "robust_accuracy": {f"{r.attack}, eps {r.eps:.4g}": r.accuracy for r in robust_accuracy},
        "audit": audited.as_dict(),
        "answers": answers,
        "lipschitz_bound": certificate.lipschitz_bound,
        "largest_rounding_slack": float(np.max(certificate.radius - radius)),
        "recipe": dataclasses.asdict(recipe),
    }
    with stopwatch("report"):
        report = _report(
            model, x_test, y_test, certificate, radius, robust_accuracy, strongest, audited, stopwatch, recipe
        )
        write_report(report, output / "report.html")
    results["seconds"] = stopwatch.seconds
    write_json(output / "results.json", results)
    return results


class _Stopwatch:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[step] = round(time.perf_counter() - start, 2)


def _attack(
    model: ClustrClassifier, images: Floats, labels: Ints, certificate: Certificate, seed: int
) -> tuple[list[RobustAccuracy], Floats]:
    """Robust accuracies under PGD, and the smallest l_2 flips found (or the attempt at the largest eps)."""
    logits = model.certifier().deployed_logits
    is_right = certificate.class_ids == labels
    restarts = 5
    attacks = {norm: ProjectedGradientDescent(logits, norm, steps=20, restarts=restarts, seed=seed) for norm, _ in PGD}
    accuracies, strongest = [], images
    total = restarts * len(images)
    with progress_bar("Attacks", total * len(PGD)) as report:
        for index, (norm, eps) in enumerate(PGD):
            attack = attacks[norm]

            def report_attempts(done: int, index: int = index, note: str = f"{norm}, eps {eps:.3g}") -> None:
                report(index * total + done, note)

            result = attack(images, certificate.class_ids, eps, progress=report_attempts)
            accuracies.append(RobustAccuracy(attack.name, norm, eps, float(np.mean(is_right & ~result.is_flipped))))
            if norm == "l_2":
                strongest = result.adversarial

    def predict(batch: Floats) -> Ints:
        return model.certify(batch).class_ids

    return accuracies, shrink_flips(predict, images, strongest, certificate.class_ids)


def _serve_and_query(
    model_dir: pathlib.Path, images: Floats, labels: Ints, certificate: Certificate
) -> list[dict[str, Any]]:
    """Serves the export, asks over gRPC and REST, holds the answers against the live model, returns the first ones."""
    with LocalServer(model_dir, name=MODEL_NAME) as server:
        with Client(server.grpc_target, model=MODEL_NAME) as client:
            by_grpc = client.certify(images)
        with Client(server.rest_url, model=MODEL_NAME) as client:
            by_rest = client.certify(images)
        say(f"Served at {server.grpc_target} (gRPC) and {server.rest_url} (REST); both answered.")
    for answer in (by_grpc, by_rest):
        off = np.abs(answer.certified_radius - certificate.certified_radius).max()
        if not np.array_equal(answer.class_ids, certificate.class_ids) or off > 1e-5:
            raise RuntimeError(f"the server's answers differ from the live model's: radii by up to {off}.")
    return [
        {
            "image": row,
            "true_class": CLASS_NAMES[labels[row]],
            "class_name": str(by_grpc.class_names[row]),
            "probability": float(by_grpc.probabilities[row].max()),
            "runner_up_class": CLASS_NAMES[by_grpc.runner_up_class_ids[row]],
            "certified_radius": float(by_rest.certified_radius[row]),
        }
        for row in range(_SHOWN)
    ]


def _report(
    model: ClustrClassifier,
    images: Floats,
    labels: Ints,
    certificate: Certificate,
    radius: Floats,
    robust_accuracy: list[RobustAccuracy],
    strongest: Floats,
    audited: AuditResult,
    stopwatch: _Stopwatch,
    recipe: CertifiedRecipe,
) -> Report:
    attempts = model.certify(strongest)
    slack = float(np.max(certificate.radius - radius))
    return Report(
        title="Digits, certified",
        facts={
            "data set": f"scikit-learn's digits, {len(images)} test images of 8 x 8 pixels",
            "model": f"{recipe.backbone}, {model.backbone.count_params():,} weights, "
            f"cluster centers per class: {recipe.clusters_per_class}",
            "Lipschitz bound": f"{certificate.lipschitz_bound:.7f}",
            "rounding slack": f"at most {slack:.4f}, subtracted (IEEE float32)",
            "training": f"{stopwatch.seconds['train']:.0f} s, {recipe.epochs} epochs, seed {recipe.seed}",
            "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}, Keras {keras.__version__}",
        },
        images=images,
        labels=labels,
        class_names=list(CLASS_NAMES),
        class_ids=certificate.class_ids,
        certified_radius=radius,
        robust_accuracy=robust_accuracy,
        adversarial=strongest,
        flipped_to=attempts.class_ids,
        embeddings=model.embed(images),
        centers=keras.ops.convert_to_numpy(model.head.centers),
        audit=audited.as_dict(),
    )
