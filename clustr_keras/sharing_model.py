"""A Keras model whose replicas share every batch: Keras deals out those of `fit`, `evaluate` and `predict` alone."""

from typing import Any

import keras
import numpy as np

from clustr_keras.backend import num_replicas, strategy_scope
from clustr_keras.objective import class_ids
from clustr_keras.shares import check_shares, dealt_out, first_share, quiet_end, without_small_batches
from clustr_keras.types import Floats, Tensor


class SharingModel(keras.Model):
    """A `keras.Model` for code that gathers what all replicas have, and takes it for the batch.

    Without a `tf.distribute.MirroredStrategy` it is a `keras.Model`. Under one, Keras gives every replica the whole
    batch in `train_on_batch`, `test_on_batch` and `predict_on_batch`; here each gets its share.
    """

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains, without the batches of a `tf.data.Dataset` that leave a device without an example."""
        with strategy_scope(self):
            shared = without_small_batches(x)
        with quiet_end(shared is not x and not kwargs.get("steps_per_epoch")):
            return super().fit(shared, *args, **kwargs)

    def train_on_batch(
        self,
        x: Tensor,
        y: Tensor = None,
        sample_weight: Tensor = None,
        class_weight: dict[int, float] | None = None,
        return_dict: bool = False,
    ) -> Any:
        """Trains on one batch.

        Raises:
            ValueError: If the batch leaves a device without an example.
        """
        if not self._has_replicas:
            return super().train_on_batch(x, y, sample_weight, class_weight, return_dict)
        if class_weight is not None:
            if sample_weight is not None:
                raise ValueError("class_weight and sample_weight exclude each other; got both.")
            labels = np.asarray(class_ids(keras.ops.convert_to_tensor(y)))
            sample_weight = np.array([class_weight.get(int(label), 1.0) for label in labels], "float32")
        with strategy_scope(self):
            check_shares(x, len(x), len(x), 0.0)
        self.make_train_function()
        return self._step_on_batch(self.train_function, x, y, sample_weight, return_dict)

    def test_on_batch(
        self, x: Tensor, y: Tensor = None, sample_weight: Tensor = None, return_dict: bool = False
    ) -> Any:
        """Evaluates one batch."""
        if not self._has_replicas:
            return super().test_on_batch(x, y, sample_weight, return_dict)
        self.make_test_function()
        return self._step_on_batch(self.test_function, x, y, sample_weight, return_dict)

    def predict_on_batch(self, x: Tensor) -> Floats:
        """Computes the outputs for one batch."""
        return self.predict(x, len(x), verbose=0) if self._has_replicas else super().predict_on_batch(x)

    @property
    def _has_replicas(self) -> bool:
        with strategy_scope(self):
            return num_replicas() > 1

    def _step_on_batch(self, function: Any, x: Tensor, y: Tensor, sample_weight: Tensor, return_dict: bool) -> Any:
        batch = (x, y) if sample_weight is None else (x, y, sample_weight)
        self._maybe_symbolic_build(data_batch=tuple(map(keras.ops.convert_to_tensor, batch)))
        self.reset_metrics()
        with strategy_scope(self):
            iterator = dealt_out(batch)
        function(iterator)
        # Not what the step returns, the mean of what each replica knew within it.
        logs = {name: np.asarray(value).tolist() for name, value in self.get_metrics_result().items()}
        return logs if return_dict else self._flatten_metrics_in_order(logs)

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Builds for one share of a batch: Keras takes the mean of all shares, which then must have one shape."""
        if iterator is not None and self._has_replicas:
            with strategy_scope(self):
                iterator, data_batch = None, first_share(next(next(iter(iterator))[2]))
        super()._maybe_symbolic_build(iterator, data_batch)
