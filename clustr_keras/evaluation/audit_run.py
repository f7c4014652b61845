"""An audit as the command line runs it: progress, a table, figures and counterexamples on disk."""

import dataclasses

import numpy as np
import rich.table

from clustr_keras.attacks import AttackResult
from clustr_keras.evaluation.audit import audit, default_attacks
from clustr_keras.evaluation.reach import reach
from clustr_keras.evaluation.results_file import write_json
from clustr_keras.progress import console, progress_bar, say


def run_audit(model, images, output, with_reach=False, seed=0):
    """Audits a model, shows the outcome and writes it down.

    Args:
        model: `ClustrClassifier`.
        images: Floats `[B, H, W, C]` in [0, 1].
        output: Folder for `results.json` and `counterexample-<index>.npz`; those of an earlier audit are replaced.
        with_reach: Whether to measure the attacks' reach too.
        seed: Integer, of the attacks.

    Returns:
        The `AuditResult`.

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
    records = [dataclasses.asdict(record) for record in audited.records]
    results = {**audited.as_dict(), "seed": seed, "records": records, **figures}
    console.print(_table(results))
    for path, record in zip(audited.save_counterexamples(images, output), audited.records, strict=True):
        say(
            f"Example {record.index}: class {record.class_before} turns into {record.class_after} at distance "
            f"{record.distance:.6g}, inside its certified radius {record.certified_radius:.6g}. Saved {path}."
        )
    write_json(output / "results.json", results)
    say(f"Wrote {output / 'results.json'}.")
    return audited


class _Found:
    """The smallest flips of `reach`, as one more attack: one inside a certified radius is a violation like any."""

    norm = "l_2"
    name = "smallest flips of reach"

    def __init__(self, reached):
        self.reached = reached

    def attempts(self, count):
        return count

    def __call__(self, images, labels, eps, progress):
        is_flipped = np.isfinite(self.reached.distance)
        progress(len(images))
        return AttackResult(self.reached.adversarial, is_flipped, labels, self.reached.distance)


def _table(results):
    table = rich.table.Table("audit", "", title="Attacks inside the certified radius")
    for number, attack in enumerate(results["attacks"]):
        table.add_row("attacks" if number == 0 else "", attack)
    table.add_row("violations", f"{results['violations']} of {results['examples']} examples")
    if "reach" in results:
        figures = results["reach"]
        table.add_row("smallest flips found", f"{figures['flips_found']} of {figures['examples']} examples")
        for quantile, ratio in figures["ratio_quantiles"].items():
            shown = "none found" if ratio is None else f"{ratio:.4f}"
            table.add_row(f"flip over radius, quantile {quantile}", shown)
        share = figures["share_within_1.02"]
        table.add_row("flip over radius in 1.00 .. 1.02", "no radius" if share is None else f"{share:.1%}")
        table.add_row("flip over radius below 1", str(figures["ratio_below_1"]))
    return table
