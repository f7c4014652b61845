"""Gradients and Jacobians on whichever backend the tests run."""

import keras
import numpy as np
from keras import ops


def value_and_gradients(function, *at, updated=()):
    """Value of a function, and the gradients of the sum of its entries.

    Args:
        function: Called with tensors of `at`, or without arguments where `at` are variables, which it reads then.
        at: Arrays, or `keras.Variable`s.
        updated: Variables whose updates are kept.

    Returns:
        Two: an array, or whatever else the function returned first; and a list of arrays like `at`.
    """
    is_variable = isinstance(at[0], keras.Variable)
    sources = [source.value if is_variable else ops.convert_to_tensor(source) for source in at]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(sources)
            value = function() if is_variable else function(*sources)
        gradients = tape.gradient(value, sources, unconnected_gradients="zero")
    else:
        import jax

        def total(sources):
            with keras.StatelessScope(list(zip(at, sources, strict=True)) if is_variable else None) as scope:
                value = function() if is_variable else function(*sources)
            return ops.sum(value), (value, [scope.get_current_value(variable) for variable in updated])

        # Compiled whole, since one operation after the other takes longer.
        gradients, (value, updates) = jax.jit(jax.grad(total, has_aux=True))(sources)
        jax.effects_barrier()  # what is kept has arrived
        for variable, update in zip(updated, updates, strict=True):
            variable.assign(update)
    return np.asarray(value), [np.asarray(gradient) for gradient in gradients]


def gradient(function, x):
    """The gradient of the sum of a function's values at an array."""
    return value_and_gradients(function, x)[1][0]


def compiled_value(function, x):
    """The value of a function of one array; what it does to variables is forgotten on JAX."""
    x = ops.convert_to_tensor(x)
    if keras.backend.backend() == "tensorflow":
        return np.asarray(function(x))
    import jax

    def pure(x):
        with keras.StatelessScope():
            return function(x)

    return np.asarray(jax.jit(pure)(x))


def jacobian(function, x):
    """The Jacobian `[outputs, inputs]` of a function of one tensor."""
    x = ops.convert_to_tensor(x)
    size = int(np.prod(x.shape))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            outputs = function(x)
        of_function = tape.jacobian(outputs, x, experimental_use_pfor=False)
    else:
        import jax

        of_function = jax.jit(jax.jacrev(function))(x)
    return np.reshape(of_function, (-1, size)).astype("float64")


def jacobian_at(layer, x):
    """The same of a layer at one example, which it treats by itself: from one backward pass over copies of it."""
    if keras.backend.backend() != "tensorflow":
        return jacobian(layer, x[None])
    import tensorflow as tf

    size = int(np.prod(layer(x[None]).shape))
    copies = tf.constant(np.repeat(x[None], size, axis=0))
    with tf.GradientTape() as tape:
        tape.watch(copies)
        picked = tf.linalg.diag_part(tf.reshape(layer(copies), (size, size)))
    return np.reshape(tape.gradient(picked, copies), (size, -1)).astype("float64")


def keep(seen, tensor):
    """Appends the value of a tensor to a list, under a gradient as well."""
    if keras.backend.backend() == "jax":
        import jax

        jax.debug.callback(lambda value: seen.append(np.array(value)), tensor, ordered=True)
    else:
        seen.append(np.array(tensor))
