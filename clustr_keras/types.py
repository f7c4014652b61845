"""What annotations mean where neither TensorFlow, JAX nor Keras has types to check against."""

from typing import Any, TypeAlias

import numpy.typing as npt

Tensor: TypeAlias = Any
"""Of the backend: a `tf.Tensor`, a `jax.Array`, or a symbolic `keras.KerasTensor`."""

ArrayLike: TypeAlias = npt.ArrayLike
"""What `numpy.asarray` takes: an array, nested lists, or a tensor that is not symbolic."""

Floats: TypeAlias = npt.NDArray[Any]
"""A NumPy array of floats; its shape and precision are the docstring's to say."""

Ints: TypeAlias = npt.NDArray[Any]
"""A NumPy array of class ids, indices or counts."""

Bools: TypeAlias = npt.NDArray[Any]
"""A NumPy array of yes or no."""

Shape: TypeAlias = tuple[int | None, ...]
"""Sizes of the axes, `None` for what is left open."""
