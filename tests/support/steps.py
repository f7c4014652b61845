"""Steps of an optimizer outside of `fit`."""

import keras


def compiled_step(optimizer, variables):
    """Function that applies gradients to variables."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(optimizer.apply)
    import jax

    stateless = jax.jit(optimizer.stateless_apply)
    states = optimizer.variables

    def step(gradients):
        found = stateless([state.value for state in states], gradients, [variable.value for variable in variables])
        for variable, value in zip([*variables, *states], [*found[0], *found[1]], strict=True):
            variable.assign(value)

    return step
