"""The floats that margins are computed in, and how they round."""

import keras


def widest_float():
    """The widest type of floats that the backend computes in, here and now: JAX has float64 on request alone."""
    if keras.backend.backend() != "jax":
        return "float64"
    import jax

    return "float64" if jax.config.jax_enable_x64 else "float32"


def unit_roundoff(dtype):
    """Half the distance from 1 to the next float of a type."""
    return 2.0**-53 if keras.backend.standardize_dtype(dtype) == "float64" else 2.0**-24
