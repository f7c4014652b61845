"""The model in a Beam worker."""

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from apache_beam.ml.inference.base import ModelHandler

from clustr_keras.bulk.examples import Examples
from clustr_keras.bulk.shards import Shard
from clustr_keras.bulk.worker_process import end_at_once, unneeded_modules_missing

if TYPE_CHECKING:  # TensorFlow reads variables of the environment that are not set yet
    import pyarrow as pa

    from clustr_keras.bulk.deployed_model import DeployedModel

# What TensorFlow and the libraries under NumPy look at when they start.
_THREAD_VARIABLES = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class CertifyingHandler(ModelHandler):
    """Loads a model once in a worker, and certifies whole shards with it.

    A batch of Beam's is a list of one `(shard, examples)`: a shard must not wait for others, or a killed run would lose
    them all. The model has batches of its own inside.

    Args:
        path: As for `DeployedModel`.
        threads: Threads that a worker computes with.
        **settings: Whatever else `DeployedModel` takes.
    """

    def __init__(self, path: str, threads: int = 1, **settings: Any) -> None:
        super().__init__(env_vars=thread_variables(threads))
        self.path, self.settings = path, settings

    def load_model(self) -> "DeployedModel":
        """Loads the model; called once in each worker process."""
        end_at_once()
        with unneeded_modules_missing():
            import tensorflow as tf

            from clustr_keras.bulk.deployed_model import DeployedModel

        # TensorFlow's graph optimizer adds up partial sums in an order that changes from one load to the next. That is
        # within the proof, but rows must not depend on which worker made them. It costs nothing to leave it out.
        tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
        return DeployedModel(self.path, **self.settings)

    def run_inference(
        self,
        batch: Sequence[tuple[Shard, Examples]],
        model: "DeployedModel",
        inference_args: dict[str, Any] | None = None,
    ) -> Iterator[tuple[Shard, "pa.Table"]]:
        """Yields `(shard, table of rows)`."""
        from clustr_keras.bulk.rows import table_of

        for shard, examples in batch:
            yield shard, table_of(examples, model.certify(examples), model.class_names)

    def should_skip_batching(self) -> bool:
        """Beam leaves the lists as they are."""
        return True

    def get_num_bytes(self, batch: Sequence[tuple[Shard, Examples]]) -> int:
        """Size of the images; Beam would pickle them to find out."""
        return sum(examples.num_bytes for _, examples in batch)

    def get_metrics_namespace(self) -> str:
        """Where Beam's metrics of latency and throughput are filed."""
        return "clustr_certify"


def thread_variables(threads: int) -> dict[str, str]:
    """Environment variables that hold a process to so many threads."""
    return dict.fromkeys(_THREAD_VARIABLES, str(threads)) | {
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3")
    }
