"""`clustr audit`."""

import pathlib
import typing
from typing import Annotated, Any

import typer

from clustr_keras.commands.answering import answering, fail_unless
from clustr_keras.commands.inputs import images_to_test, import_modules, load_classifier, load_data
from clustr_keras.commands.options import (
    DataDirOption,
    DataOption,
    ExamplesOption,
    ImageSizeOption,
    ImportOption,
    JsonOption,
    ModelOption,
    SeedOption,
    output_option,
)

if typing.TYPE_CHECKING:
    import rich.table


def audit(
    model: ModelOption,
    imports: ImportOption = None,
    data: DataOption = "digits",
    data_dir: DataDirOption = None,
    image_size: ImageSizeOption = None,
    examples: ExamplesOption = None,
    reach: Annotated[bool, typer.Option("--reach", help="Also measure how near the smallest flips come.")] = False,
    output: Annotated[pathlib.Path, output_option("Folder for figures and counterexamples.")] = pathlib.Path(
        "runs/audit"
    ),
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Attack test images inside their certified radii.

    Exit status 1 if any certificate is refuted.

    JSON: model, data, output, ids (of a sample), and results.json: examples, attacks, violations, seed, records (of
    the violations, by their places in the data set), reach.
    """
    with answering(as_json) as answer:
        import_modules(imports)
        otherwise = "clustr evaluate takes an exported version, and attacks inside its certified radii too."
        classifier = load_classifier(model, otherwise)
        test = images_to_test(load_data(data, data_dir, image_size), examples, seed)
        from clustr_keras.evaluation.audit_run import run_audit

        results = run_audit(classifier, test.images, output, reach, seed, test.ids)
        found = [
            f"Example {record['index']}: class {record['class_before']} turns into {record['class_after']} at distance "
            f"{record['distance']:.6g}, inside its certified radius {record['certified_radius']:.6g}. "
            f"Saved {record['file']}."
            for record in results["records"]
        ]
        figures = {"model": model, "data": data, "output": output, "ids": test.sample, **results}
        answer(figures, _table(results), *found, f"Wrote {output / 'results.json'}.")
    fail_unless(not results["violations"])


def _table(results: dict[str, Any]) -> "rich.table.Table":
    import rich.table

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
