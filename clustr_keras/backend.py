"""What Keras has no neutral call for: gradients of inputs, noise by example, graphs, a batch that replicas share."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras
from keras import ops

from clustr_keras.philox import philox_bits
from clustr_keras.types import Tensor


def input_gradient(
    function: Callable[[Tensor], tuple[Tensor, Tensor]], inputs: Tensor, variables: Sequence[keras.Variable]
) -> tuple[Tensor, Tensor]:
    """Gradient of the sum of a function's values in its inputs.

    Args:
        function: From a tensor like `inputs` to a pair, the values in a tensor of any shape, and any other tensor. It
            may update variables (batch normalization in training mode does).
        inputs: Tensor.
        variables: Those that the function reads or updates.

    Returns:
        `(gradient, other)`: a tensor like `inputs`, and the function's other tensor, which still has its own gradient
        in the weights.

    Raises:
        NotImplementedError: On a backend other than TensorFlow and JAX.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            values, other = function(inputs)
            value = ops.sum(values)
        return tape.gradient(value, inputs), other
    if backend == "jax":
        import jax

        def pure(inputs):
            scope = keras.StatelessScope(state_mapping=[(variable, variable.value) for variable in variables])
            with scope:
                values, other = function(inputs)
            return ops.sum(values), (other, [scope.get_current_value(variable) for variable in variables])

        gradient, (other, updated) = jax.grad(pure, has_aux=True)(inputs)
        for variable, value in zip(variables, updated, strict=True):
            if not variable.trainable:
                variable.assign(value)
        return gradient, other
    raise NotImplementedError(f"the gradient of an input is known for tensorflow and jax; the backend is {backend}.")


def example_noise(kind: str, seed: int, step: Tensor, examples: Tensor, shape: Sequence[int]) -> Tensor:
    """Noise that depends on the seed, the step and the number of the example alone.

    Args:
        kind: `"uniform"` in (-1, 1), or `"normal"`.
        seed: Integer in 0..2^31 - 1.
        step: Int scalar tensor.
        examples: Ints `[B]`, the numbers of the examples in the global batch.
        shape: Of one example.

    Returns:
        float32 `[B, *shape]`.
    """
    bits = ops.right_shift(_example_bits(seed, step, examples, shape), 8)
    # Of bits, since each compiler makes other floats of them.
    uniform = ops.cast(bits, "float32") * 2.0**-23 - 1.0 + 2.0**-24
    return math.sqrt(2.0) * ops.erfinv(uniform) if kind == "normal" else uniform


def _example_bits(seed, step, examples, shape):
    """uint32 `[B, *shape]`, the same on every backend."""
    if keras.backend.backend() != "tensorflow":
        bits = philox_bits(seed, step, examples, math.prod(shape))
        return ops.reshape(bits, (len(examples), *shape))
    import tensorflow as tf

    def of_example(example):
        key = tf.stack([seed * 2**32 + tf.cast(step, tf.int64), tf.cast(example, tf.int64)])
        return tf.random.stateless_uniform(shape, key, minval=None, maxval=None, dtype=tf.uint32, alg="philox")

    return tf.map_fn(of_example, examples, fn_output_signature=tf.uint32, parallel_iterations=16)


@contextlib.contextmanager
def wide_floats() -> Iterator[None]:
    """Where float64 is float64: JAX has float32 in its place unless it is asked, for one operation after the other."""
    if keras.backend.backend() != "jax":
        yield
        return
    import jax

    with jax.enable_x64(True):
        yield


def of_any_size(function: Any) -> Callable[[Any], Any]:
    """A `tf.function` of nested tensors that is traced for rows of any number, before it is called with some.

    What is no tensor, such as the shares of several replicas, is left to the function.
    """
    import tensorflow as tf

    def any_rows(tensor):
        return tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)

    def run(data: Any) -> Any:
        if all(isinstance(leaf, tf.Tensor) for leaf in tf.nest.flatten(data)):
            function.get_concrete_function(tf.nest.map_structure(any_rows, data))  # traced once, then at hand
        return function(data)

    return run


def of_all_replicas(rows: Tensor | None) -> Tensor | None:
    """Rows of all replicas in the order of the global batch, `[sum of B, ...]`, from those of this one, `[B, ...]`.

    Shares need not be equal. The gradient of a row is the sum over what all replicas make of it. `None` stays `None`.
    """
    context = _replica_context()
    if rows is None or context is None:
        return rows
    gathered = context.all_gather(rows, axis=0)
    gathered.set_shape([None, *rows.shape[1:]])
    return gathered


def examples_of_replica(batch_size: Tensor) -> Tensor:
    """Numbers in the global batch of this replica's examples, ints `[B]`."""
    first = 0
    context = _replica_context()
    if context is not None:
        sizes = context.all_gather(ops.reshape(batch_size, (1,)), axis=0)
        first = ops.sum(sizes[: context.replica_id_in_sync_group])
    return ops.cast(first + ops.arange(batch_size), "int32")


def require_tensorflow(purpose: str) -> None:
    """Refuses another backend where TensorFlow is the point.

    Raises:
        ValueError: If Keras runs on another one.
    """
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ValueError(
            f"{purpose} needs Keras on TensorFlow; it runs on {backend}. Save the model and load it in a process with "
            "KERAS_BACKEND=tensorflow: it is the same model there."
        )


def require_one_process(purpose: str) -> None:
    """Refuses what needs whole arrays where each process holds a share of them.

    Raises:
        ValueError: If `keras.distribution` spreads the model over several processes.
    """
    processes = getattr(keras.distribution.distribution(), "num_processes", 1)
    if processes > 1:
        raise ValueError(
            f"{purpose} needs all examples in one process; the model is distributed over {processes}. Save the model "
            "in the first process, and load it in one that is not distributed."
        )


@contextlib.contextmanager
def synchronized_normalization(model: keras.Model) -> Iterator[None]:
    """Lets batch normalization take its statistics over all replicas, as long as the context lasts.

    Not for good: what Keras saves would say so, and load with TensorFlow alone.
    """
    with strategy_scope(model):
        layers = model._flatten_layers() if num_replicas() > 1 else []
    normalizations = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    local = [layer for layer in normalizations if not layer.synchronized]
    for layer in local:
        layer.synchronized = True
    try:
        yield
    finally:
        for layer in local:
            layer.synchronized = False


def num_replicas() -> int:
    """Number of replicas that a step runs on."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def can_share(rows: int) -> bool:
    """Whether every replica gets an example of a batch. TensorFlow's convolutions go wrong on a CPU without one."""
    count = num_replicas()
    # As TensorFlow deals them out: ceil(rows / count) to each replica, while there are any.
    return -(-rows // count) * (count - 1) <= max(rows - 1, 0)


def strategy_scope(model: keras.Model) -> AbstractContextManager:
    """The scope of the distribution strategy that a model was made under."""
    strategy = getattr(model, "distribute_strategy", None)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def _replica_context():
    """Where several replicas run, that of the one this code runs for; `None` anywhere else."""
    if num_replicas() == 1:
        return None
    import tensorflow as tf

    return tf.distribute.get_replica_context()
