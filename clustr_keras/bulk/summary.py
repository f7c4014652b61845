"""What an output folder says in all."""

import dataclasses
from collections.abc import Iterable

import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from clustr_keras.bulk.output import OutputFolder
from clustr_keras.bulk.shards import Shard


@dataclasses.dataclass
class Summary:
    """Counts over all rows.

    Args:
        images: Rows.
        invalid: Images that are not valid.
        labeled: Valid images with a label.
        right: Those of them whose class is the label.
        radius_sum: Of the certified radii of valid images; `None` if nothing is certified.
    """

    images: int = 0
    invalid: int = 0
    labeled: int = 0
    right: int = 0
    radius_sum: float | None = 0.0

    def as_dict(self) -> dict[str, int | float | None]:
        """Ready for JSON: the counts, the share of labels that are right, and the mean certified radius."""
        valid = self.images - self.invalid
        return {
            "images": self.images,
            "invalid": self.invalid,
            "labeled": self.labeled,
            "accuracy": self.right / self.labeled if self.labeled else None,
            "mean_certified_radius": self.radius_sum / valid if valid and self.radius_sum is not None else None,
        }

    def __str__(self) -> str:
        valid = self.images - self.invalid
        parts = [f"{self.images} images", f"{self.invalid} invalid"]
        if self.labeled:
            parts.append(f"{self.right / self.labeled:.1%} of {self.labeled} labels right")
        if valid:
            parts.append(
                "nothing certified: the model has no rounding analysis"
                if self.radius_sum is None
                else f"mean certified radius {self.radius_sum / valid:.4f}"
            )
        return ", ".join(parts)


def summarize(output: OutputFolder, shards: Iterable[Shard]) -> Summary:
    """Reads what is needed of the files of all shards.

    Args:
        output: `OutputFolder`.
        shards: Finished `Shard`s.

    Returns:
        A `Summary`.

    Raises:
        RuntimeError: If a file does not have a row for each image of its shard.
    """
    total = Summary()
    for shard in shards:
        with FileSystems.open(FileSystems.join(output.path, shard.file_name)) as file:
            rows = pq.read_table(file, columns=["label", "class_id", "certified_radius", "is_valid"])
        if len(rows) != shard.count:
            raise RuntimeError(
                f"{shard.file_name} has {len(rows)} rows for {shard.count} images. Delete it and run again."
            )
        valid = rows.filter(rows["is_valid"])
        labeled = valid.filter(pc.is_valid(valid["label"]))
        total.images += len(rows)
        total.invalid += len(rows) - len(valid)
        total.labeled += len(labeled)
        total.right += pc.sum(pc.equal(labeled["label"], labeled["class_id"])).as_py() or 0
        if valid["certified_radius"].null_count:
            total.radius_sum = None
        elif total.radius_sum is not None:
            total.radius_sum += pc.sum(valid["certified_radius"]).as_py() or 0.0
    return total
