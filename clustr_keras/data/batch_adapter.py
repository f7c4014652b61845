"""How `fit` takes the batches of a `PyDataset` on TensorFlow."""

from typing import TYPE_CHECKING

from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

if TYPE_CHECKING:
    import tensorflow as tf


class BatchAdapter(PyDatasetAdapter):
    """The adapter of Keras, without a generator of `tf.data`.

    From the first `Dataset.from_generator` of a process on, TensorFlow gives memory back to the system at once, and it
    takes long to put away the generator of an epoch. Here `Dataset.map` makes the batches: a step of a small network
    takes less time (`benchmarks/batch_adapter.py`).

    Args:
        x: A `keras.utils.PyDataset` with a number of batches, made by one thread.
        class_weight: Dictionary from class to weight, as for `fit`.

    Example:

    >>> keras_model.fit(BatchAdapter(batches), epochs=90)
    """

    def get_tf_dataset(self) -> "tf.data.Dataset":
        """The batches of an epoch."""
        import tensorflow as tf

        example = self._standardize_batch(self.py_dataset[0])
        types = [array.dtype for array in example]

        def made(index):
            return list(self._standardize_batch(self.py_dataset[int(index)]))

        def batch(index):
            tensors = tf.numpy_function(made, [index], types)
            for tensor, array in zip(tensors, example, strict=True):
                tensor.set_shape((None, *array.shape[1:]))
            return tuple(tensors)

        options = tf.data.Options()
        options.autotune.enabled = False
        return tf.data.Dataset.range(self.num_batches).map(batch).prefetch(2).with_options(options)
