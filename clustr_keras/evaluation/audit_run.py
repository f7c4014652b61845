"""An audit as the command line runs it: progress, figures and counterexamples on disk."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from clustr_keras.attacks import AttackResult
from clustr_keras.attacks.attack import Progress
from clustr_keras.classifier import ClustrClassifier
from clustr_keras.evaluation.audit import audit, default_attacks
from clustr_keras.evaluation.reach import ReachResult, reach
from clustr_keras.progress import progress_bar
from clustr_keras.results_file import write_json
from clustr_keras.types import ArrayLike, Floats, Ints


def run_audit(
    model: ClustrClassifier,
    images: Floats,
    output: pathlib.Path,
    with_reach: bool = False,
    seed: int = 0,
    ids: Ints | None = None,
) -> dict[str, Any]:
    """Audits a model, shows the progress and writes the outcome down.

    Args:
        model: `ClustrClassifier`.
        images: Floats `[B, H, W, C]` in [0, 1].
        output: Folder for `results.json` and `counterexample-<id>.npz`; those of an earlier audit are replaced.
        with_reach: Whether to measure the attacks' reach too.
        seed: Integer, of the attacks.
        ids: What the images are called, their places in the data set; their order by default.

    Returns:
        The dict written to `results.json`.

    Raises:
        ValueError: See `audit`.
    """
    attacks = default_attacks(model, seed=seed)
    figures = {}
    if with_reach:
        with progress_bar("Reach, in percent", 100) as report:
            reached = reach(model, images, attacks, progress=lambda share: report(int(100 * share)))
        figures["reach"] = reached.as_dict()
        attacks.append(_Found(reached))
    with progress_bar("Audit", sum(attack.attempts(len(images)) for attack in attacks)) as report:
        audited = audit(model, images, attacks, progress=report)
    ids = np.arange(len(images)) if ids is None else ids
    saved = audited.save_counterexamples(images, output, ids)
    records = [
        dataclasses.asdict(record) | {"index": int(ids[record.index]), "file": str(path)}
        for record, path in zip(audited.records, saved, strict=True)
    ]
    results = {**audited.as_dict(), "seed": seed, "records": records, **figures}
    write_json(output / "results.json", results)
    return results


class _Found:
    """The smallest flips of `reach`, as one more attack: one inside a certified radius is a violation like any."""

    norm = "l_2"
    name = "smallest flips of reach"

    def __init__(self, reached: ReachResult) -> None:
        self.reached = reached

    def attempts(self, count: int) -> int:
        return count

    def __call__(
        self, images: ArrayLike, labels: ArrayLike, eps: ArrayLike, progress: Progress | None = None
    ) -> AttackResult:
        is_flipped = np.isfinite(self.reached.distance)
        if progress is not None:
            progress(len(is_flipped))
        return AttackResult(self.reached.adversarial, is_flipped, np.asarray(labels), self.reached.distance)
