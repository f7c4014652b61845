"""`clustr demo`."""

import pathlib
import typing
from typing import Annotated, Any

from clustr_keras.commands.answering import answering
from clustr_keras.commands.options import JsonOption, SeedOption, output_option

if typing.TYPE_CHECKING:
    import rich.table


def demo(
    output: Annotated[pathlib.Path, output_option("Folder for model, export and report.")] = pathlib.Path("runs/demo"),
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Do everything once, on the bundled digits.

    Trains, certifies, attacks, audits, exports, serves, queries and reports. The JSON is that of results.json.
    """
    with answering(as_json) as answer:
        from clustr_keras.demo import run_demo
        from clustr_keras.training import CertifiedRecipe

        results = run_demo(output, CertifiedRecipe(seed=seed))
        wrote = f"Wrote {output}/model.keras, results.json and report.html. Open the report in a browser."
        answer(results, _accuracies(results), _answers(results), wrote)


def _accuracies(results: dict[str, Any]) -> "rich.table.Table":
    import rich.table

    table = rich.table.Table("on the test images", "share", title="What the classifier is worth")
    table.add_row("clean accuracy", f"{results['clean_accuracy']:.1%}")
    for radius in ("0.3", "0.5"):
        table.add_row(f"certified accuracy at {radius}", f"{results['certified_accuracy'][radius]:.1%}")
    for attack, share in results["robust_accuracy"].items():
        table.add_row(f"robust accuracy, {attack}", f"{share:.1%}")
    audited = results["audit"]
    violations = f"{audited['violations']} of {audited['examples']}"
    table.add_row(f"audit violations, {', '.join(audited['attacks'])}", violations)
    return table


def _answers(results: dict[str, Any]) -> "rich.table.Table":
    import rich.table

    table = rich.table.Table(title="Answers of the server, each with its proof")
    for column in ("image", "true class", "predicted", "probability", "runner-up", "certified radius"):
        table.add_column(column, justify="right")
    for row in results["answers"]:
        table.add_row(
            str(row["image"]),
            row["true_class"],
            row["class_name"],
            f"{row['probability']:.3f}",
            row["runner_up_class"],
            f"{row['certified_radius']:.3f}",
        )
    return table
