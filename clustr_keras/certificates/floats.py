"""The floats that margins are computed in, and how they round."""

from typing import Any

import keras


def widest_float() -> str:
    """The widest type of floats that the backend computes in, here and now: JAX has float64 on request alone."""
    if keras.backend.backend() != "jax":
        return "float64"
    import jax

    is_wide = jax.config.jax_enable_x64  # type: ignore[attr-defined]  # made when JAX is imported
    return "float64" if is_wide else "float32"


def unit_roundoff(dtype: Any) -> float:
    """Half the distance from 1 to the next float of a type."""
    return 2.0**-53 if keras.backend.standardize_dtype(dtype) == "float64" else 2.0**-24
